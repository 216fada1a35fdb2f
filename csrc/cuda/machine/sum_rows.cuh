// Sums of many rows, in an order that depends on their number alone.
#pragma once

#include "cuda/machine/launch.cuh"

namespace tsgen::cuda {
namespace {

constexpr int SUM_WARPS = 8;

// out (slices, W) = sums over n_slice rows each of (n, W)
__global__ void __launch_bounds__(SUM_WARPS* WARP)
    sum_rows_kernel(const float* rows, float* out, int64_t n, int64_t W, int64_t n_slice) {
  __shared__ float room[SUM_WARPS][WARP];
  const int64_t columns = ceil_div(W, WARP), slice = blockIdx.x / columns;
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int64_t column = blockIdx.x % columns * WARP + lane;
  const int64_t end = min(n, (slice + 1) * n_slice);
  float sum = 0;
  if (column < W)
#pragma unroll 4
    for (int64_t i = slice * n_slice + warp; i < end; i += SUM_WARPS) sum += rows[i * W + column];
  room[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= W) return;
  for (int i = 1; i < SUM_WARPS; ++i) sum += room[i][lane];
  out[slice * W + column] = sum;
}

constexpr int64_t MOST_SLICES = 512;
int64_t n_slices(int64_t n) { return max((int64_t)1, min(MOST_SLICES, n / 256)); }

// out (W) = the sum of n rows, by way of n_slices(n) sums in `room`.
void sum_rows(const Launch& on, const float* rows, float* room, float* out, int64_t n, int64_t W) {
  const int64_t slices = n_slices(n), columns = ceil_div(W, WARP), n_slice = ceil_div(n, slices);
  const auto sum = [&](const float* from, float* to, int64_t n, int64_t parts, int64_t n_slice) {
    launch(on, sum_rows_kernel, parts * columns, SUM_WARPS * WARP, 0, from, to, n, W, n_slice);
  };
  sum(rows, slices == 1 ? out : room, n, slices, n_slice);
  if (slices > 1) sum(room, out, slices, 1, slices);
}

}  // namespace
}  // namespace tsgen::cuda
