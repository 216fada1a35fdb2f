// Kernels with one thread for each number of their output.
#pragma once

#include "cuda/machine/launch.cuh"

namespace tsgen::cuda {

constexpr int NUMBER_THREADS = 256;

// The thread's own; from `count` on there is nothing to do.
__device__ __forceinline__ int own_number() {
  return (int)(blockIdx.x * NUMBER_THREADS + threadIdx.x);
}

// Start kernel(args..., count); indices are ints, which are divided many times as fast.
template <typename... Params, typename... Args>
void launch_each(const Launch& on, void (*kernel)(Params...), int64_t count, Args... args) {
  if (count == 0) return;
  if (count >= (INT64_C(1) << 31) - NUMBER_THREADS)
    throw std::runtime_error("CUDA: wanted fewer than 2^31 numbers at once, got " +
                             std::to_string(count));
  launch(on, kernel, ceil_div(count, NUMBER_THREADS), NUMBER_THREADS, 0, args..., (int)count);
}

}  // namespace tsgen::cuda
