// The products of attention: small matrices that stay in the cache.
//
// Sums run over k in order, one accumulator each, as in gemm.h, whose tiles know neither a
// transposed A nor a B of a single vector.
#pragma once

#include "simd/gemm.h"

namespace tsgen::cpu::TSGEN_ISA {

enum class Left { rows, columns };  // A[m, k] is a[m * lda + k], or a[k * lda + m]

struct Product {
  const float *a, *b;
  float* c;
  int64_t lda, ldb, ldc, K;
  int64_t last;  // numbers of the last vector that are stored
  bool add;      // to what C holds
};

template <Left left, int rows, int vectors>
__attribute__((noinline)) void attention_tile(const Product& p) {
  const float *a = p.a, *b = p.b;
  const int64_t lda = p.lda, ldb = p.ldb, K = p.K;
  Floats sum[rows][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v)
      sum[r][v] = p.add ? load(p.c + r * p.ldc + v * LANES) : Floats{};

  for (int64_t k = 0; k < K; ++k) {
    Floats y[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) y[v] = load(b + k * ldb + v * LANES);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const float x = left == Left::rows ? a[r * lda + k] : a[k * lda + r];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[r][v] += x * y[v];
    }
  }

#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      float* const to = p.c + r * p.ldc + v * LANES;
      if (v + 1 < vectors || p.last == LANES)
        store(to, sum[r][v]);
      else
        store_first(to, sum[r][v], p.last);
    }
}

template <Left left, int most = TILE_ROWS>
static inline void tile_of(int64_t rows, int vectors, const Product& p) {
  if (rows == most)
    vectors == 2 ? attention_tile<left, most, 2>(p) : attention_tile<left, most, 1>(p);
  else if constexpr (most > 1)
    tile_of<left, most - 1>(rows, vectors, p);
}

// Rows that are wanted next, asked for a few at a time while the processor multiplies: they lie far
// apart, and no machine guesses them.
class Ahead {
 public:
  // D numbers a row, and about so many tiles until all should be there
  Ahead(int64_t D, int64_t n_tiles) : D(D), n_tiles(n_tiles) {}
  void add(const float* rows, int64_t stride, int64_t n) {
    matrix[n_matrices++] = {rows, stride, n};
    if (step * n_tiles < n) step = (n + n_tiles - 1) / n_tiles;
  }
  void fetch() {
    for (int i = 0; i < n_matrices; ++i)
      for (int64_t r = row; r < row + step && r < matrix[i].n; ++r) {
        const float* const from = matrix[i].rows + r * matrix[i].stride;
        for (int64_t d = 0; d < D; d += LINE) __builtin_prefetch(from + d, 0, 2);
      }
    row += step;
  }

 private:
  static constexpr int64_t LINE = 64 / sizeof(float);
  struct {
    const float* rows;
    int64_t stride, n;
  } matrix[7];
  int n_matrices = 0;
  int64_t D, n_tiles, step = 1, row = 0;
};

// C[0:M, 0:N], where panel i of B begins at p.b + i * panel. Rows are dealt out evenly: 13 as 7 + 6
// keep a processor busier than 12 + 1.
template <Left left>
__attribute__((noinline)) void multiply(Product p, int64_t panel, int64_t M, int64_t N,
                                        Ahead& ahead) {
  const int64_t n_tiles = (M + TILE_ROWS - 1) / TILE_ROWS;
  float* const c = p.c;
  const float* const a = p.a;
  for (int64_t n = 0; n < N; n += PANEL, p.b += panel) {
    const int vectors = N - n > LANES ? 2 : 1;
    p.last = N - n < PANEL ? N - n - (vectors - 1) * LANES : LANES;
    for (int64_t tile = 0, m = 0; tile < n_tiles; ++tile) {
      const int64_t rows = M / n_tiles + (tile < M % n_tiles);
      p.a = a + m * (left == Left::rows ? p.lda : 1);
      p.c = c + m * p.ldc + n;
      tile_of<left>(rows, vectors, p);
      ahead.fetch();
      m += rows;
    }
  }
}

}  // namespace tsgen::cpu::TSGEN_ISA
