// Snake: a thread takes 16 bytes of a row, a block some rows or a piece of a long one.
//
// A row is one channel of one sample: S numbers with the same frequency, gain and shift.
#include "cuda/machine/functions.cuh"
#include "cuda/machine/numbers.cuh"
#include "cuda/machine/reduce.cuh"
#include "ops_cuda.h"

namespace tsgen::cuda {
namespace {

constexpr int THREADS = 256;
constexpr int64_t MOST_PARTS = 64;   // that the batch is split into for a channel's sums
constexpr float SMALLEST_A = 1e-9f;  // as in tsgen/ops/snake.py

struct Channel {
  float a, gain, shift;
};

__device__ __forceinline__ Channel channel_of(const float* a, const float* gain, const float* shift,
                                              int64_t c) {
  return {a[c] == 0 ? SMALLEST_A : a[c], gain ? gain[c] : 1, gain ? shift[c] : 0};
}

template <typename T, int PACK>
__global__ void __launch_bounds__(THREADS)
    snake_kernel(const T* x, const float* a, const float* gain, const float* shift,  // (rows, S)
                 T* out, int64_t n_rows, int64_t C, int64_t S, int log_length, int pieces) {
  const int i = (int)threadIdx.x * PACK;  // of the block's numbers
  const int64_t row =
      (int64_t)(blockIdx.x / pieces) * (THREADS * PACK >> log_length) + (i >> log_length);
  const int64_t s = ((int64_t)(blockIdx.x % pieces) << log_length) + (i & ((1 << log_length) - 1));
  if (row >= n_rows || s >= S) return;
  const Channel channel = channel_of(a, gain, shift, row % C);
  const auto in = *(const Pack<T, PACK>*)(x + row * S + s);
  Pack<T, PACK> result;
#pragma unroll
  for (int j = 0; j < PACK; ++j) {
    const float y = load(in.at[j]) * channel.gain + channel.shift;
    const float sine = half_turn(channel.a * y).sine;
    result.at[j] = store<T>(y + sine * (sine / channel.a));
  }
  *(Pack<T, PACK>*)(out + row * S + s) = result;
}

// A block sums over one channel of some samples: parts (n_parts, 3, C), of a, gain and shift.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    snake_backward_kernel(const T* grad_out, const T* x, const float* a, const float* gain,
                          const float* shift, T* grad_x, float* parts, int64_t B, int64_t C,
                          int64_t S, int64_t samples) {
  __shared__ float room[THREADS / WARP];
  const int64_t c = blockIdx.x % C, part = blockIdx.x / C;
  const Channel channel = channel_of(a, gain, shift, c);
  const int64_t first = part * samples, end = min(B, first + samples);
  float sum_a = 0, sum_gain = 0, sum_shift = 0;
  for (int64_t i = threadIdx.x; i < (end - first) * S; i += THREADS) {
    const int64_t at = ((first + i / S) * C + c) * S + i % S;
    const float x_in = load(x[at]), g = load(grad_out[at]);
    const float y = x_in * channel.gain + channel.shift;
    const HalfTurn turn = half_turn(channel.a * y);
    const float twice = 2 * turn.sine * turn.cosine;  // sin(2 a y)
    const float g_y = g * (1 + twice);
    sum_a += g * (y * twice - turn.sine * (turn.sine / channel.a));
    sum_gain += g_y * x_in;
    sum_shift += g_y;
    grad_x[at] = store<T>(g_y * channel.gain);
  }
  sum_a = over_block(sum_a, room, Sum());
  sum_gain = over_block(sum_gain, room, Sum());
  sum_shift = over_block(sum_shift, room, Sum());
  if (threadIdx.x != 0) return;
  float* const to = parts + part * 3 * C + c;
  to[0] = sum_a / channel.a, to[C] = sum_gain, to[2 * C] = sum_shift;
}

__global__ void __launch_bounds__(THREADS)
    snake_sums_kernel(const float* parts, float* grad_a, float* grad_gain, float* grad_shift,
                      int64_t n_parts, int64_t C) {
  const int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (c >= C) return;
  float sum[3] = {};
  for (int64_t part = 0; part < n_parts; ++part)
#pragma unroll
    for (int i = 0; i < 3; ++i) sum[i] += parts[(part * 3 + i) * C + c];
  grad_a[c] = sum[0];
  if (grad_gain) grad_gain[c] = sum[1], grad_shift[c] = sum[2];
}

int64_t n_parts(int64_t B) { return max((int64_t)1, min(MOST_PARTS, B / 4)); }

template <typename T, int PACK>
void forward(const Launch& on, const void* x, const float* a, const float* gain, const float* shift,
             void* out, int64_t n_rows, int64_t C, int64_t S) {
  const int64_t tile = THREADS * PACK;
  int log_length = 0;  // of the part of a row that a block takes, a power of 2
  while (((int64_t)1 << log_length) < min(S, tile)) ++log_length;
  const int64_t pieces = ceil_div(S, (int64_t)1 << log_length);
  launch(on, snake_kernel<T, PACK>, ceil_div(n_rows, tile >> log_length) * pieces, THREADS, 0,
         (const T*)x, a, gain, shift, (T*)out, n_rows, C, S, log_length, (int)pieces);
}

}  // namespace

void snake(const Launch& on, const void* x, const float* a, const float* gain, const float* shift,
           void* out, int64_t B, int64_t C, int64_t S) {
  if (B * C * S == 0) return;
  by_dtype(on.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int PACK = 16 / sizeof(T);
    const bool packed = S % PACK == 0 && ((uintptr_t)x | (uintptr_t)out) % 16 == 0;
    const auto run = packed ? forward<T, PACK> : forward<T, 1>;
    run(on, x, a, gain, shift, out, B * C, C, S);
  });
}

int64_t snake_backward_scratch(int64_t B, int64_t C, int64_t) {
  return n_parts(B) * 3 * C * (int64_t)sizeof(float);
}

void snake_backward(const Launch& on, const void* grad_out, const void* x, const float* a,
                    const float* gain, const float* shift, void* grad_x, float* grad_a,
                    float* grad_gain, float* grad_shift, int64_t B, int64_t C, int64_t S) {
  if (C == 0) return;
  float* const parts = (float*)on.scratch;
  by_dtype(on.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(on, snake_backward_kernel<T>, n_parts(B) * C, THREADS, 0, (const T*)grad_out,
           (const T*)x, a, gain, shift, (T*)grad_x, parts, B, C, S, ceil_div(B, n_parts(B)));
  });
  launch(on, snake_sums_kernel, ceil_div(C, THREADS), THREADS, 0, (const float*)parts, grad_a,
         grad_gain, grad_shift, n_parts(B), C);
}

}  // namespace tsgen::cuda
