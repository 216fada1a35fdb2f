// Matrix products whose sums run over k in order, one accumulator each: a row's result depends on
// that row alone, to the bit, whatever the number of rows and however they are split.
//
// For files in csrc/cpu/simd only, see vectors.h.
#pragma once

#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {

#if defined(__AVX512F__)
constexpr int TILE_ROWS = 12;  // 12 x 2 sums, 2 vectors of B and one of A: 27 of 32 registers
#elif defined(__AVX2__)
constexpr int TILE_ROWS = 6;  // 6 x 2 + 2 + 1: 15 of 16
#else
constexpr int TILE_ROWS = 4;
#endif
constexpr int PANEL = 2 * LANES;  // columns of B that are packed together
constexpr int64_t DEPTH = 384;    // of a pass: a panel of B this deep stays in the L1 cache

// Floats that pack() writes for B (K, N).
static inline int64_t packed_size(int64_t N, int64_t K) {
  return (N + PANEL - 1) / PANEL * PANEL * K;
}

// B[k, n] = from[k * stride_k + n * stride_n] into panels (N / PANEL, K, PANEL), zeros behind N.
static inline void pack(const float* from, int64_t stride_k, int64_t stride_n, int64_t N, int64_t K,
                        float* to) {
  for (int64_t n0 = 0; n0 < N; n0 += PANEL)
    for (int64_t k = 0; k < K; ++k)
      for (int64_t n = n0; n < n0 + PANEL; ++n)
        *to++ = n < N ? from[k * stride_k + n * stride_n] : 0.0f;
}

enum class Start { zero, bias, c };  // what the sums begin with: 0, bias[n], or C itself

// C[0:rows, 0:n] of one tile. b: K rows of PANEL floats, ldb apart. n <= PANEL columns are stored.
template <int rows>
static inline void gemm_tile(const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                             int64_t ldc, int64_t n, int64_t K, Start start, const float* bias) {
  const int64_t first = n < LANES ? n : LANES, second = n - first;
  const auto read = [&](const float* from, int v) {
    const int64_t m = v ? second : first;
    return m == LANES ? load(from + v * LANES) : m ? load_first(from + v * LANES, m) : Floats{};
  };
  Floats sum[rows][2];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < 2; ++v)
      sum[r][v] = start == Start::zero ? Floats{} : read(start == Start::c ? c + r * ldc : bias, v);

  for (int64_t k = 0; k < K; ++k) {
    const Floats b0 = load(b + k * ldb), b1 = load(b + k * ldb + LANES);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const Floats x = all(a[r * lda + k]);
      sum[r][0] += x * b0;
      sum[r][1] += x * b1;
    }
  }

#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < 2; ++v) {
      float* const to = c + r * ldc + v * LANES;
      const int64_t m = v ? second : first;
      if (m == LANES)
        store(to, sum[r][v]);
      else if (m)
        store_first(to, sum[r][v], m);
    }
}

// One panel of columns for M rows.
static inline void gemm_panel(const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                              int64_t ldc, int64_t M, int64_t n, int64_t K, Start start,
                              const float* bias) {
  int64_t m = 0;
  for (; m + TILE_ROWS <= M; m += TILE_ROWS)
    gemm_tile<TILE_ROWS>(a + m * lda, lda, b, ldb, c + m * ldc, ldc, n, K, start, bias);
#if defined(__AVX512F__)
  for (; m + 8 <= M; m += 8)
    gemm_tile<8>(a + m * lda, lda, b, ldb, c + m * ldc, ldc, n, K, start, bias);
#endif
  for (; m + 4 <= M; m += 4)
    gemm_tile<4>(a + m * lda, lda, b, ldb, c + m * ldc, ldc, n, K, start, bias);
  for (; m + 2 <= M; m += 2)
    gemm_tile<2>(a + m * lda, lda, b, ldb, c + m * ldc, ldc, n, K, start, bias);
  if (m < M) gemm_tile<1>(a + m * lda, lda, b, ldb, c + m * ldc, ldc, n, K, start, bias);
}

// C = A B + what the sums start with    A (M, K) rows lda apart, B packed, C (M, N) rows ldc apart
static inline void gemm_from(Start start, const float* a, int64_t lda, const float* packed_b,
                             const float* bias, float* c, int64_t ldc, int64_t M, int64_t N,
                             int64_t K) {
  for (int64_t n = 0; n < N; n += PANEL) {
    const int64_t columns = N - n < PANEL ? N - n : PANEL;
    Start from = start;
    for (int64_t k = 0; k < K; k += DEPTH) {
      const int64_t depth = K - k < DEPTH ? K - k : DEPTH;
      gemm_panel(a + k, lda, packed_b + n * K + k * PANEL, PANEL, c + n, ldc, M, columns, depth,
                 from, bias ? bias + n : nullptr);
      from = Start::c;
    }
  }
}

// C = A B + bias    bias (N) or null
static inline void gemm(const float* a, int64_t lda, const float* packed_b, const float* bias,
                        float* c, int64_t ldc, int64_t M, int64_t N, int64_t K) {
  gemm_from(bias ? Start::bias : Start::zero, a, lda, packed_b, bias, c, ldc, M, N, K);
}

}  // namespace tsgen::cpu::TSGEN_ISA
