// Inverse short-time Fourier transform and its adjoint, CPU: one pass over every series.
#include <cstring>

#include "fourier.h"
#include "ops.h"

namespace tsgen::cpu {
namespace {

// 1 / sum_t window[l + W/2 - t hop]² for every sample l of a series, or 0 where no window reaches.
std::vector<float> inverse_weight(const float* window, int64_t L, int64_t W, int64_t hop,
                                  int64_t T) {
  std::vector<float> inverse(L);
  for (int64_t l = 0; l < L; ++l) {
    const int64_t at = l + W / 2, tap = at % hop;  // reached by frames at / hop, and before it
    double weight = 0;
    for (int64_t n = tap, t = at / hop; n < W && t >= 0; n += hop, --t)
      if (t < T) weight += (double)window[n] * window[n];
    inverse[l] = weight > 1e-11 ? (float)(1 / weight) : 0.0f;
  }
  return inverse;
}

}  // namespace

void istft(const float* planes, const float* window, float* x, int64_t N, int64_t L, int64_t W,
           int64_t hop, int64_t first, int64_t F, int64_t T, int64_t n_threads) {
  const Fourier fourier(window, W, hop, first, F, T, Direction::synthesis, true);
  const std::vector<float> inverse = inverse_weight(window, L, W, hop, T);
  const auto run = TSGEN_BEST(planes_to_samples);
  const auto multiply = TSGEN_BEST(multiply);
  for_each_series(fourier, N, n_threads, [&](int64_t i, float* sums, float* scratch) {
    run(fourier.path, planes + i * fourier.planes(), sums, scratch);
    multiply(sums + W / 2, inverse.data(), x + i * L, L);
  });
}

void istft_backward(const float* grad_x, const float* window, float* grad_planes, int64_t N,
                    int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T,
                    int64_t n_threads) {
  const Fourier fourier(window, W, hop, first, F, T, Direction::analysis, true);
  const std::vector<float> inverse = inverse_weight(window, L, W, hop, T);
  const auto run = TSGEN_BEST(samples_to_planes);
  const auto multiply = TSGEN_BEST(multiply);
  for_each_series(fourier, N, n_threads, [&](int64_t i, float* sums, float* scratch) {
    // nothing comes from outside the series
    std::memset(sums, 0, fourier.samples() * sizeof(float));
    multiply(grad_x + i * L, inverse.data(), sums + W / 2, L);
    run(fourier.path, sums, grad_planes + i * fourier.planes(), scratch);
    fourier.silence(grad_planes + i * fourier.planes());
  });
}

}  // namespace tsgen::cpu
