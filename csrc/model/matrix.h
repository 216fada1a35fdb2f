// The few matrix functions that folding weights takes, in float64, row by row and contiguous.
#pragma once

#include <cstdint>

#include "model/tensors.h"

namespace tsgen {

// A right factor where it lies: b[k, n] = at[k * stride_k + n * stride_n]
struct Factor {
  const double* at;
  int64_t stride_k, stride_n;
};

// The transpose of weight (N, K), rows `stride` apart.
inline Factor transposed(const double* weight, int64_t stride) { return {weight, 1, stride}; }

// a (M, K) times b (K, N)
Doubles product(const double* a, const Factor& b, int64_t M, int64_t N, int64_t K);

// x (M, K) times the transpose of weight (N, K), plus bias (N)
Doubles linear(const Doubles& x, const Doubles& weight, const Doubles& bias, int64_t K);

// x Φ(x) of all numbers.
void gelu(Doubles& x);

}  // namespace tsgen
