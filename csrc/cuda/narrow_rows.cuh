// 16 rows of a warp in its registers, as accumulators of tensor cores: a lane has 2 rows and, of
// every 8 columns, 2.
#pragma once

#include "cuda/machine/functions.cuh"
#include "cuda/machine/reduce.cuh"
#include "cuda/narrow_room.cuh"

namespace tsgen::cuda {

using Wide = FragmentC[WIDTH / 8];  // 16 rows of 128 in float
using Packed = FragmentA[STEPS];    // the same in 16 bits
using Narrow = FragmentC[64 / 8];   // 16 rows of 64 in float

// Of this lane: its first row, and the next is 8 on; its first column.
__device__ __forceinline__ int tile_row() { return thread_now() % WARP / 4; }
__device__ __forceinline__ int tile_pair() { return thread_now() % 4 * 2; }

// y = LN(y) of n numbers a row, zeros behind them; LN as in norm_linear.py
__device__ __forceinline__ void normalise(Wide& y, int n, const float* gain, const float* shift,
                                          float eps) {
  const int pair = tile_pair();
  float mean[2], scale[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float sum = 0, squares = 0;
#pragma unroll
    for (int j = 0; j < WIDTH / 8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) sum += y[j].at[2 * i + e];  // zero behind the last one
    mean[i] = over_lanes<4>(sum, Sum()) / n;
#pragma unroll
    for (int j = 0; j < WIDTH / 8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& off = y[j].at[2 * i + e];
        off -= mean[i];
        if (n == WIDTH || pair < n - 8 * j - e) squares += off * off;
      }
    scale[i] = rsqrtf(over_lanes<4>(squares, Sum()) / n + eps);
  }
#pragma unroll
  for (int j = 0; j < WIDTH / 8; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int column = 8 * j + pair + e;
      const bool there = n == WIDTH || pair < n - 8 * j - e;
      const float g = there ? gain[column] : 0, s = there ? shift[column] : 0;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& value = y[j].at[2 * i + e];
        value = there ? value * scale[i] * g + s : 0;
      }
    }
}

__device__ __forceinline__ void gelu_all(Wide& y, int n) {
#pragma unroll
  for (int j = 0; j < WIDTH / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (8 * j < n) y[j].at[i] = gelu(y[j].at[i]);
}

// Accumulators as the first factor of a product.
template <typename T>
__device__ __forceinline__ FragmentA as_factor(const FragmentC& left, const FragmentC& right) {
  return {{pack<T>(left.at[0], left.at[1]), pack<T>(left.at[2], left.at[3]),
           pack<T>(right.at[0], right.at[1]), pack<T>(right.at[2], right.at[3])}};
}

template <typename T>
__device__ __forceinline__ void as_factor(const Wide& x, Packed& a) {
#pragma unroll
  for (int s = 0; s < STEPS; ++s) a[s] = as_factor<T>(x[2 * s], x[2 * s + 1]);
}

template <typename Fragment, int n>
__device__ __forceinline__ void clear(Fragment (&c)[n]) {
#pragma unroll
  for (Fragment& part : c) part = {};
}

}  // namespace tsgen::cuda
