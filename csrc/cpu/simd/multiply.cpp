// Tiles of a product in float64, once per instruction set.
#include "simd/multiply.h"

#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

typedef double Doubles __attribute__((TSGEN_VECTOR, aligned(8), may_alias));
constexpr int64_t LANES64 = LANES / 2, PANEL = 2 * LANES64, ROWS = 4;

// c[0:rows, 0:columns], N apart
template <int rows>
void tile(const double* a, const double* b, double* c, int64_t N, int64_t columns, int64_t K) {
  Doubles sum[rows][2]{};
  for (int64_t k = 0; k < K; ++k) {
    const Doubles b0 = *(const Doubles*)(b + k * PANEL);
    const Doubles b1 = *(const Doubles*)(b + k * PANEL + LANES64);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      const Doubles x = a[r * K + k] - Doubles{};
      sum[r][0] += x * b0;
      sum[r][1] += x * b1;
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int64_t n = 0; n < columns; ++n) c[r * N + n] = sum[r][n / LANES64][n % LANES64];
}

}  // namespace

int64_t packed_doubles_size(int64_t N, int64_t K) { return (N + PANEL - 1) / PANEL * PANEL * K; }

void pack_doubles(const double* from, int64_t stride_k, int64_t stride_n, int64_t N, int64_t K,
                  double* to) {
  for (int64_t n0 = 0; n0 < N; n0 += PANEL)
    for (int64_t k = 0; k < K; ++k)
      for (int64_t n = n0; n < n0 + PANEL; ++n)
        *to++ = n < N ? from[k * stride_k + n * stride_n] : 0.0;
}

void multiply_doubles(const double* a, const double* packed_b, double* c, int64_t M, int64_t N,
                      int64_t K) {
  for (int64_t n = 0; n < N; n += PANEL) {
    const int64_t columns = N - n < PANEL ? N - n : PANEL;
    const double* const b = packed_b + n * K;
    int64_t m = 0;
    for (; m + ROWS <= M; m += ROWS) tile<ROWS>(a + m * K, b, c + m * N + n, N, columns, K);
    for (; m < M; ++m) tile<1>(a + m * K, b, c + m * N + n, N, columns, K);
  }
}

}  // namespace tsgen::cpu::TSGEN_ISA
