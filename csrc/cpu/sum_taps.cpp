// Sums of products of tokens and taps, GELU and its statistics, CPU: one pass forward, one
// backward.
#include "simd/sum_taps.h"

#include <vector>

#include "machine/parallel.h"
#include "ops.h"
#include "parts.h"
#include "simd/moments.h"

namespace tsgen::cpu {
namespace {

constexpr int64_t WORK = 24;  // multiplications that GELU costs, for useful_threads

}  // namespace

void sum_taps(const float* products, const int64_t* source, const float* bias, float* h,
              float* mean, float* var, int64_t B, int64_t M, int64_t T, int64_t F, int64_t N,
              int64_t n_threads) {
  const auto forward = TSGEN_BEST(sum_taps_forward);
  std::vector<float> means(B * F), squares(B * F);
  parallel_for(B, useful_threads(n_threads, B * N * F * (T + WORK)), [&](int64_t b, int64_t) {
    const SumTaps op{products + b * M * T * F, bias, source, M, T, F, N};
    forward(op, h + b * N * F, means.data() + b * F, squares.data() + b * F);
  });
  for (int64_t f = 0; f < F; ++f) {
    Moments all{};
    for (int64_t b = 0; b < B; ++b)
      add(all, {(double)N, (double)means[b * F + f], (double)squares[b * F + f]});
    mean[f] = (float)all.mean, var[f] = (float)(all.squares / all.n);
  }
}

void sum_taps_backward(const float* grad_h, const float* grad_mean, const float* grad_var,
                       const float* mean, const float* products, const int64_t* source,
                       const float* bias, float* grad_products, float* grad_bias, int64_t B,
                       int64_t M, int64_t T, int64_t F, int64_t N, int64_t n_threads) {
  const auto backward = TSGEN_BEST(sum_taps_backward);
  const float share = 1.0f / (float)(B * N);
  std::vector<float> add(F), slope(F), parts(B * F);
  for (int64_t f = 0; f < F; ++f) add[f] = grad_mean[f] * share, slope[f] = 2 * grad_var[f] * share;
  n_threads = useful_threads(n_threads, B * N * F * (2 * T + 2 * WORK));
  std::vector<float> rows(n_threads * F);
  parallel_for(B, n_threads, [&](int64_t b, int64_t thread) {
    const SumTaps op{products + b * M * T * F, bias, source, M, T, F, N};
    backward(op, grad_h + b * N * F, add.data(), slope.data(), mean, rows.data() + thread * F,
             grad_products + b * M * T * F, parts.data() + b * F);
  });
  add_parts<double>(parts.data(), B, F, grad_bias);
}

}  // namespace tsgen::cpu
