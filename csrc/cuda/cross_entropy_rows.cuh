// Cross-entropy of a block of rows and the gradient of h, while the codes pass by once.
#pragma once

#include "cuda/machine/functions.cuh"
#include "cuda/machine/reduce.cuh"
#include "cuda/product_pair.cuh"

namespace tsgen::cuda {

// What the gradient of W needs to know of a row.
struct alignas(16) Row {
  int64_t row;  // of h
  float log_total;
  int target;
};

template <typename T>
struct Loss {
  const T *h, *weight;  // (M, D), (K, D)
  const float* bias;    // (K) or null
  const int64_t *rows, *target;
  int64_t M, R;
  int K, D;
  bool packed;

  // Null for what does not exist.
  __device__ __forceinline__ const T* row(int64_t r) const {
    return r >= 0 && r < M ? h + r * D : nullptr;
  }
  __device__ __forceinline__ const T* code(int64_t k) const {
    return k >= 0 && k < K ? weight + k * D : nullptr;
  }
  __device__ __forceinline__ float bias_of(int k) const {
    return k < K ? bias ? __ldg(bias + k) : 0 : -INFINITY;
  }
  __device__ __forceinline__ int64_t row_number(int64_t r) const { return r < R ? rows[r] : -1; }
};

__device__ __forceinline__ float exp_fast(float x) { return exp2_fast(x * LOG2_E); }

// The softmax of rows as the codes pass by, and where the target's logit is found.
template <typename Pair>
struct OnlineSoftmax {
  static constexpr int N = Pair::N_ROWS;
  float top[N], total[N] = {}, chosen[N] = {};
  int target[N];  // -1 for one that does not exist

  template <bool GRAD>
  __device__ __forceinline__ void take(Pair& pair, const Loss<typename Pair::T>& loss, int first) {
#pragma unroll
    for (int j = 0; j < Pair::N_COLUMNS; ++j) {
      const int k = first + Pair::column_of(j);
      const float bias = loss.bias_of(k);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float l = pair.at(i, j) += bias;
        if (k == target[i]) chosen[i] = l;
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float higher = top[i], sum = 0;
#pragma unroll
      for (int j = 0; j < Pair::N_COLUMNS; ++j) higher = fmaxf(higher, pair.at(i, j));
      higher = over_lanes<Pair::LANES>(higher, Max());
#pragma unroll
      for (int j = 0; j < Pair::N_COLUMNS; ++j)
        sum += pair.at(i, j) = exp_fast(pair.at(i, j) - higher);
      const float shrink = exp_fast(top[i] - higher);
      total[i] = total[i] * shrink + sum;
      top[i] = higher;
      if (GRAD) {
#pragma unroll
        for (int j = 0; j < Pair::N_OUT; ++j) pair.out(i, j) *= shrink;
      }
    }
  }
};

// A block has 64 rows, and a piece of the dims of their gradients.
template <typename Pair, bool GRAD>
__global__ void __launch_bounds__(PAIR_THREADS, 2)
    rows_kernel(Loss<typename Pair::T> loss, double* losses,  // a sum for every 64 rows
                Row* known,                                   // (R), and the next with GRAD
                typename Pair::T* grad_h) {                   // (M, D), zeros
  using T = typename Pair::T;
  auto& room = shared<typename Pair::Shared>();
  __shared__ double sums[PAIR_THREADS / WARP];
  const int n_pieces = GRAD ? max(1, (int)ceil_div(loss.D, Pair::DIMS)) : 1;
  const int64_t block = blockIdx.x / n_pieces, first = block * PAIR_ROWS;
  const int piece = blockIdx.x % n_pieces;
  Pair pair;
  OnlineSoftmax<Pair> softmax;
#pragma unroll
  for (int i = 0; i < Pair::N_ROWS; ++i) {
    const int64_t r = first + Pair::row_of(i);
    const int64_t target = r < loss.R ? loss.target[r] : -1;
    softmax.top[i] = LOWEST;
    softmax.target[i] = loss.code(target) ? (int)target : -1;
  }
  multiply_pair<GRAD>(
      pair, room, (int)ceil_div(loss.K, PAIR_ROWS), piece, loss.D, loss.packed,
      [&](int i) { return loss.row(loss.row_number(first + i)); },
      [&](int stage, int tile, int of) {
        const auto code = [&](int j) { return loss.code((int64_t)tile * PAIR_ROWS + j); };
        Pair::fetch(room, stage, code, of, loss.D, loss.packed);
      },
      [&](int tile) { softmax.template take<GRAD>(pair, loss, tile * PAIR_ROWS); });

  double sum = 0;
#pragma unroll
  for (int i = 0; i < Pair::N_ROWS; ++i) {
    const int64_t r = first + Pair::row_of(i), row = loss.row_number(r);
    const T* const wanted = loss.code(softmax.target[i]);
    const bool exists = loss.row(row) && wanted;
    const float chosen = over_lanes<Pair::LANES>(softmax.chosen[i], Sum());
    const float total = over_lanes<Pair::LANES>(softmax.total[i], Sum());
    const float log_total = softmax.top[i] + logf(total);
    if (r < loss.R && threadIdx.x % Pair::LANES == 0) {
      sum += exists ? log_total - chosen : NAN;
      if (GRAD && piece == 0) known[r] = {row, log_total, softmax.target[i]};
    }
    if (!GRAD || !exists) continue;
    const float share = 1 / total, scale = 1 / (float)loss.R;
#pragma unroll
    for (int j = 0; j < Pair::N_OUT; ++j) {
      const int d = piece * Pair::DIMS + Pair::dim_of(j);
      if (d >= loss.D) continue;
      const float grad = pair.out(i, j) * share - load(wanted[d]);
      grad_h[row * loss.D + d] = store<T>(grad * scale);
    }
  }
  sum = over_block(sum, sums, Sum());
  if (threadIdx.x == 0 && piece == 0) losses[block] = sum;
}

}  // namespace tsgen::cuda
