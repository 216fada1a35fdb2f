// What is done to whole rows: a warp takes one.
#include "cuda/engine/kernels.h"
#include "cuda/machine/functions.cuh"
#include "cuda/machine/reduce.cuh"
#include "levels.h"

namespace tsgen::cuda {
namespace {

constexpr int THREADS = 128, WARPS = THREADS / WARP;
constexpr float SMALLEST = 1e-12f;  // a length, as torch.nn.functional.normalize has it

__device__ __forceinline__ int64_t own_row() {
  return (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
}

__global__ void __launch_bounds__(THREADS)
    layer_norm_kernel(const float* x, const float* gain_shift, float eps, const float* added,
                      float* out, int64_t M, int D) {
  const int64_t row = own_row();
  const int lane = threadIdx.x % WARP;
  if (row >= M) return;
  const float* const from = x + row * D;
  float sum = 0, squares = 0;
  for (int d = lane; d < D; d += WARP) sum += from[d];
  const float mean = over_lanes(sum, Sum()) / (float)D;
  for (int d = lane; d < D; d += WARP) squares += (from[d] - mean) * (from[d] - mean);
  const float scale = 1 / sqrtf(over_lanes(squares, Sum()) / (float)D + eps);
  for (int d = lane; d < D; d += WARP) {
    const float y = (from[d] - mean) * scale * gain_shift[d] + gain_shift[D + d];
    out[row * D + d] = added ? y + added[row * D + d] : y;
  }
}

__global__ void __launch_bounds__(THREADS)
    unit_rows_kernel(const float* x, float* out, int64_t M, int D) {
  const int64_t row = own_row();
  const int lane = threadIdx.x % WARP;
  if (row >= M) return;
  double squares = 0;  // as the CPU's encoder sums them
  for (int d = lane; d < D; d += WARP) squares += (double)x[row * D + d] * (double)x[row * D + d];
  const float length = fmaxf((float)sqrt(over_lanes(squares, Sum())), SMALLEST);
  for (int d = lane; d < D; d += WARP) out[row * D + d] = x[row * D + d] / length;
}

__global__ void __launch_bounds__(THREADS)
    bound_rows_kernel(float* x, const int64_t* levels, int64_t M, int D) {
  const int64_t row = own_row();
  if (row >= M) return;
  for (int d = threadIdx.x % WARP; d < D; d += WARP)
    x[row * D + d] = bounded(x[row * D + d], levels[d]);
}

struct WideAttention {
  const float *q, *k, *v, *null_kv, *scale;
  float* out;
  int64_t q_stride, kv_stride;
  int H, M, T, Dh;
};

// A warp has a query, each lane one of 32 keys at a time, then some dims of their values.
__global__ void __launch_bounds__(THREADS) attend_wide_kernel(WideAttention in, int64_t count) {
  const int64_t row = own_row();  // of (S, M, H)
  const int lane = threadIdx.x % WARP, Dh = in.Dh, H = in.H;
  if (row >= count) return;
  const int h = (int)(row % H);
  const int64_t s = row / H / in.M;
  float* const query = &shared<float>() + threadIdx.x / WARP * 2 * Dh;  // times the scale
  float* const sums = query + Dh;
  const float* const q = in.q + row / H * in.q_stride + h * Dh;
  float squares = 0;
  for (int d = lane; d < Dh; d += WARP) squares += q[d] * q[d];
  const float length = fmaxf(sqrtf(over_lanes(squares, Sum())), SMALLEST);
  for (int d = lane; d < Dh; d += WARP) query[d] = q[d] / length * in.scale[d], sums[d] = 0;
  __syncwarp();
  const auto key = [&](const float* t, int i, int null) {  // the null one is the last
    return i < in.T ? t + (s * in.T + i) * in.kv_stride + h * Dh : in.null_kv + (null * H + h) * Dh;
  };
  const float to_log2 = LOG2_E / sqrtf((float)Dh);
  float most = LOWEST, total = 0;
  for (int first = 0; first <= in.T; first += WARP) {
    const int n = min(WARP, in.T + 1 - first);
    float score = LOWEST;
    if (lane < n) {
      const float* const k = key(in.k, first + lane, 0);
      float dot = 0, own = 0;
      for (int d = 0; d < Dh; ++d) dot = fmaf(query[d], k[d], dot), own = fmaf(k[d], k[d], own);
      score = dot / fmaxf(sqrtf(own), SMALLEST) * to_log2;
    }
    const float higher = fmaxf(most, over_lanes(score, Max()));
    const float shrink = exp2_fast(most - higher);
    const float weight = lane < n ? exp2_fast(score - higher) : 0.0f;
    most = higher, total = total * shrink + over_lanes(weight, Sum());
    for (int d = lane; d < ceil_div(Dh, WARP) * WARP; d += WARP) {
      float sum = d < Dh ? sums[d] * shrink : 0.0f;
      for (int i = 0; i < n; ++i) {
        const float own = __shfl_sync(ALL_LANES, weight, i);
        if (d < Dh) sum = fmaf(own, key(in.v, first + i, 1)[d], sum);
      }
      if (d < Dh) sums[d] = sum;
    }
  }
  for (int d = lane; d < Dh; d += WARP) in.out[row * Dh + d] = sums[d] / total;
}

}  // namespace

void layer_norm(const Launch& on, const float* x, const float* gain_shift, float eps,
                const float* added, float* out, int64_t M, int64_t D) {
  if (M == 0) return;
  launch(on, layer_norm_kernel, ceil_div(M, WARPS), THREADS, 0, x, gain_shift, eps, added, out, M,
         (int)D);
}

void unit_rows(const Launch& on, const float* x, float* out, int64_t M, int64_t D) {
  if (M == 0) return;
  launch(on, unit_rows_kernel, ceil_div(M, WARPS), THREADS, 0, x, out, M, (int)D);
}

void bound_rows(const Launch& on, float* x, const int64_t* levels, int64_t M, int64_t D) {
  if (M == 0) return;
  launch(on, bound_rows_kernel, ceil_div(M, WARPS), THREADS, 0, x, levels, M, (int)D);
}

void attend_wide(const Launch& on, const float* q, const float* k, const float* v,
                 const float* null_kv, const float* scale, float* out, int64_t q_stride,
                 int64_t kv_stride, int64_t S, int64_t H, int64_t M, int64_t T, int64_t Dh) {
  if (S * H * M == 0) return;
  const WideAttention in{q,        k,         v,      null_kv, scale,  out,
                         q_stride, kv_stride, (int)H, (int)M,  (int)T, (int)Dh};
  launch(on, attend_wide_kernel, ceil_div(S * H * M, WARPS), THREADS,
         WARPS * 2 * Dh * sizeof(float), in, S * H * M);
}

}  // namespace tsgen::cuda
