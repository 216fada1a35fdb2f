// The head, logits = h Wᵀ + b: its arguments, and the logits of a few codes, whole warps at a time.
#pragma once

#include "cuda/machine/pieces.cuh"
#include "cuda/machine/reduce.cuh"

namespace tsgen::cuda {

template <typename T>
struct Head {
  const T *h, *weight;  // (R, D), (K, D)
  const float* bias;    // (K) or null
  int64_t R;
  int K, D;
  bool packed, bias_packed;  // rows are in pieces; the bias is, there being one
  int parts = 1;             // tiles of a group

  __device__ __forceinline__ const T* row(int64_t r) const { return h + r * D; }
  __device__ __forceinline__ const T* code(int k) const { return weight + (int64_t)k * D; }
  // b, and no weight behind the last code
  __device__ __forceinline__ float bias_of(int k) const {
    return k < K ? bias ? __ldg(bias + k) : 0 : -INFINITY;
  }
};

constexpr int FEW = 4;

// Codes k[n] to k[n] + CODES for some of 8 rows, of which each lane has number lane / 4 or -1: the
// logits of row i go to out[n] + i * pitch if its bit is set in wanted[n], which is 0 for no codes.
struct Some {
  int k[FEW];
  float* out[FEW];
  unsigned wanted[FEW];
};

// Of float16 and bfloat16, by tensor cores.
template <typename T>
struct FewCodes {
  static constexpr int CODES = 16;

  static __device__ __forceinline__ void few(const Head<T>& head, int64_t row, const Some& some,
                                             int pitch) {
    const int lane = threadIdx.x % WARP;
    FragmentC c[FEW] = {};
    if (head.packed)
      add_few<true>(c, head, row, some);
    else
      add_few<false>(c, head, row, some);
#pragma unroll
    for (int n = 0; n < FEW; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = lane % 4 * 2 + i % 2, at = lane / 4 + i / 2 * 8;
        if (some.wanted[n] >> column & 1)
          some.out[n][column * pitch + at] = c[n].at[i] + head.bias_of(some.k[n] + at);
      }
  }

  template <bool PACKED>
  static __device__ __forceinline__ void add_few(FragmentC (&c)[FEW], const Head<T>& head,
                                                 int64_t row, const Some& some) {
#pragma unroll(PACKED ? 4 : 1)
    for (int d = 0; d < head.D; d += 32) {  // all loads of a round before the first product
      const uint4 b = load_words(head.row(row), row >= 0, d, head.D, PACKED);
#pragma unroll
      for (int n = 0; n < FEW; ++n) {
        const int low = some.k[n] + threadIdx.x % WARP / 4, high = low + 8;
        const bool wanted = some.wanted[n];
        const uint4 x = load_words(head.code(low), wanted && low < head.K, d, head.D, PACKED);
        const uint4 y = load_words(head.code(high), wanted && high < head.K, d, head.D, PACKED);
        multiply_add<T>(c[n], {x.x, y.x, x.y, y.y}, {b.x, b.y});
        multiply_add<T>(c[n], {x.z, y.z, x.w, y.w}, {b.z, b.w});
      }
    }
  }
};

// Of float32, by FMA: a lane has every fourth 4 dims.
template <>
struct FewCodes<float> {
  static constexpr int CODES = 8;

  static __device__ __forceinline__ void few(const Head<float>& head, int64_t row, const Some& some,
                                             int pitch) {
    const int lane = threadIdx.x % WARP;
    int64_t rows[8];
    float c[FEW][8] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) rows[i] = __shfl_sync(ALL_LANES, row, 4 * i);
    for (int d = lane % 4 * 4; d < head.D; d += 16) {
      Pack<float, 4> w[FEW];
#pragma unroll
      for (int n = 0; n < FEW; ++n) {
        const int k = some.k[n] + lane / 4;
        w[n] = load_piece(head.code(k), some.wanted[n] && k < head.K, d, head.D, head.packed);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const auto x = load_piece(head.row(rows[i]), rows[i] >= 0, d, head.D, head.packed);
#pragma unroll
        for (int n = 0; n < FEW; ++n)
#pragma unroll
          for (int j = 0; j < 4; ++j) c[n][i] = fmaf(x.at[j], w[n].at[j], c[n][i]);
      }
    }
#pragma unroll
    for (int n = 0; n < FEW; ++n)
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float l = over_lanes<4>(c[n][i], Sum());
        if (i / 2 == lane % 4 && some.wanted[n] >> i & 1)
          some.out[n][i * pitch + lane / 4] = l + head.bias_of(some.k[n] + lane / 4);
      }
  }
};

}  // namespace tsgen::cuda
