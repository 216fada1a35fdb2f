// Inverse short-time Fourier transform and its adjoint, CUDA.
#include "cuda/analysis.cuh"
#include "cuda/synthesis.cuh"

namespace tsgen::cuda {

int64_t istft_scratch(int64_t, int64_t L, int64_t W, int64_t hop, int64_t, int64_t, int64_t) {
  return tables_bytes(L, W, hop, true);
}

void istft(const Launch& on, const void* planes, const float* window, void* x, int64_t N, int64_t L,
           int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T) {
  synthesise<true>(on, planes, window, x, N, L, W, hop, first, F, T);
}

void istft_backward(const Launch& on, const void* grad_x, const float* window, void* grad_planes,
                    int64_t N, int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F,
                    int64_t T) {
  analyse<true>(on, grad_x, window, grad_planes, N, L, W, hop, first, F, T);
}

}  // namespace tsgen::cuda
