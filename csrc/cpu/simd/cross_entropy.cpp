// Cross-entropy of one row of logits and its gradient, once per instruction set.
#include "simd/cross_entropy.h"

#include "simd/softmax.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

constexpr int PARTS = GROUP / LANES;

// The sum of a row's weights, which go to `weights` unless that is null; `logits` may be there.
double weigh(const LogitRow& row, float largest, float* weights) {
  double total = 0;
  for (int64_t g = 0; g < row.n_groups; ++g) {
    const int64_t left = row.K - g * GROUP;
    Floats part{};
    for (int v = 0; v < PARTS; ++v) {
      const Floats w = exp(load(row.group(g) + v * LANES) - largest);
      part += w;
      if (!weights) continue;
      float* const to = weights + g * GROUP + v * LANES;
      if (left >= (v + 1) * LANES)
        store(to, w);
      else if (left > v * LANES)
        store_first(to, w, left - v * LANES);
    }
    total += sum(part);
  }
  return total;
}

}  // namespace

double cross_entropy_row(const float* logits, int64_t target, int64_t K) {
  const LogitRow row(logits, K);
  const float largest = largest_logit(row);
  return __builtin_log(weigh(row, largest, nullptr)) + largest - logits[target];
}

double cross_entropy_row_backward(float* logits, int64_t target, float scale, int64_t K) {
  const LogitRow row(logits, K);
  const float largest = largest_logit(row), wanted = logits[target];
  const double total = weigh(row, largest, logits);
  const float share = (float)(scale / total);
  for (int64_t k = 0; k < K; ++k) logits[k] *= share;
  logits[target] -= scale;
  return __builtin_log(total) + largest - wanted;
}

}  // namespace tsgen::cpu::TSGEN_ISA
