// Sums, maxima and the like over a warp or a block, in an order that is always the same.
#pragma once

#include "cuda/machine/launch.cuh"

namespace tsgen::cuda {

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return b > a ? b : a;  // NaN in b loses
  }
};
struct Min {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;  // NaN in b loses
  }
};

// `of` all values of `width` neighbouring lanes, in each of them.
template <int width = WARP, typename T, typename Of>
__device__ __forceinline__ T over_lanes(T value, Of of) {
#pragma unroll
  for (int step = width / 2; step > 0; step /= 2)
    value = of(value, __shfl_xor_sync(ALL_LANES, value, step));
  return value;
}

// `of` all values of the block, in each thread. `room`: a T for every warp, in shared memory.
template <typename T, typename Of>
__device__ T over_block(T value, T* room, Of of) {
  const int warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
  value = over_lanes(value, of);
  __syncthreads();  // the last to use `room` have read it
  if (threadIdx.x % WARP == 0) room[warp] = value;
  __syncthreads();
  value = room[0];
  for (int i = 1; i < n_warps; ++i) value = of(value, room[i]);
  return value;
}

}  // namespace tsgen::cuda
