// How every CUDA kernel is started: on a device and a stream, checked, one-dimensional.
//
// With TSGEN_CUDA_ON_CPU the same sources are compiled as C++, see csrc/cuda_on_cpu.
#pragma once

#include <algorithm>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>

#include "cuda/machine/device.h"

#ifdef TSGEN_CUDA_ON_CPU
#include "cuda_on_cpu.h"
#endif

namespace tsgen::cuda {

constexpr int64_t MOST_BLOCKS = 0x7fffffff;          // of a grid, along x
constexpr size_t SHARED_WITHOUT_ASKING = 48 * 1024;  // bytes
constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

#ifdef TSGEN_CUDA_ON_CPU

template <typename... Params, typename... Args>
void launch(const Launch&, void (*kernel)(Params...), int64_t n_blocks, int n_threads,
            size_t shared_bytes, Args... args) {
  if (n_blocks > MOST_BLOCKS) throw std::runtime_error("CUDA: a grid of more than 2^31 blocks");
  cuda_on_cpu::run_grid([&] { kernel(args...); }, (unsigned)n_blocks, (unsigned)n_threads,
                        shared_bytes);
}

template <typename T>
T& shared() {
  return *reinterpret_cast<T*>(cuda_on_cpu::shared_memory());
}

#else

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that no later call finds it
  if (error == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// Let a kernel have shared_bytes. It is a setting of the process: never less than the most there
// is, or another thread's launch of the same kernel could fail.
template <typename Kernel>
void ask_for_shared(int64_t device, Kernel kernel, size_t shared_bytes) {
  cudaFuncAttributes own;
  check(cudaFuncGetAttributes(&own, kernel));
  const int64_t most = most_shared(device) - (int64_t)own.sharedSizeBytes;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)std::max<int64_t>(most, shared_bytes)));
}

// Start kernel(args...); nothing is waited for.
template <typename... Params, typename... Args>
void launch(const Launch& on, void (*kernel)(Params...), int64_t n_blocks, int n_threads,
            size_t shared_bytes, Args... args) {
  if (n_blocks > MOST_BLOCKS) throw std::runtime_error("CUDA: a grid of more than 2^31 blocks");
  check(cudaSetDevice((int)on.device));
  if (shared_bytes > SHARED_WITHOUT_ASKING) ask_for_shared(on.device, kernel, shared_bytes);
  kernel<<<(unsigned)n_blocks, n_threads, shared_bytes, (cudaStream_t)on.stream>>>(args...);
  check(cudaGetLastError());
}

// The block's dynamic shared memory, whose size launch() was given.
template <typename T>
__device__ T& shared() {
  extern __shared__ __align__(16) char dynamic_shared[];
  return *reinterpret_cast<T*>(dynamic_shared);
}

#endif

}  // namespace tsgen::cuda
