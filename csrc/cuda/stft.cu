// Short-time Fourier transform and its adjoint, CUDA.
#include "cuda/analysis.cuh"
#include "cuda/synthesis.cuh"

namespace tsgen::cuda {

int64_t stft_scratch(int64_t, int64_t L, int64_t W, int64_t hop, int64_t, int64_t, int64_t) {
  return tables_bytes(L, W, hop, false);
}

void stft(const Launch& on, const void* x, const float* window, void* planes, int64_t N, int64_t L,
          int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T) {
  analyse<false>(on, x, window, planes, N, L, W, hop, first, F, T);
}

void stft_backward(const Launch& on, const void* grad_planes, const float* window, void* grad_x,
                   int64_t N, int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F,
                   int64_t T) {
  synthesise<false>(on, grad_planes, window, grad_x, N, L, W, hop, first, F, T);
}

}  // namespace tsgen::cuda
