// Short-time Fourier transform and its adjoint, CPU: one pass over every series.
#include <cstring>

#include "fourier.h"
#include "ops.h"

namespace tsgen::cpu {

void stft(const float* x, const float* window, float* planes, int64_t N, int64_t L, int64_t W,
          int64_t hop, int64_t first, int64_t F, int64_t T, int64_t n_threads) {
  const Fourier fourier(window, W, hop, first, F, T, Direction::analysis, false);
  const auto run = TSGEN_BEST(samples_to_planes);
  for_each_series(fourier, N, n_threads, [&](int64_t i, float* padded, float* scratch) {
    const float* const series = x + i * L;
    float* const inner = padded + W / 2;
    std::memcpy(inner, series, L * sizeof(float));
    for (int64_t n = 1; n <= W / 2; ++n)
      inner[-n] = series[n], inner[L - 1 + n] = series[L - 1 - n];
    run(fourier.path, padded, planes + i * fourier.planes(), scratch);
    fourier.silence(planes + i * fourier.planes());
  });
}

void stft_backward(const float* grad_planes, const float* window, float* grad_x, int64_t N,
                   int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T,
                   int64_t n_threads) {
  const Fourier fourier(window, W, hop, first, F, T, Direction::synthesis, false);
  const auto run = TSGEN_BEST(planes_to_samples);
  for_each_series(fourier, N, n_threads, [&](int64_t i, float* padded, float* scratch) {
    float* const series = grad_x + i * L;
    float* const inner = padded + W / 2;
    run(fourier.path, grad_planes + i * fourier.planes(), padded, scratch);
    for (int64_t n = (T + fourier.path.halo) * hop - W / 2; n < L + W / 2; ++n)
      inner[n] = 0;  // behind the last frame
    std::memcpy(series, inner, L * sizeof(float));
    for (int64_t n = 1; n <= W / 2; ++n)  // a sample has its mirror images' gradient too
      series[n] += inner[-n], series[L - 1 - n] += inner[L - 1 + n];
  });
}

}  // namespace tsgen::cpu
