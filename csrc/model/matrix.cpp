#include "model/matrix.h"

#include <cmath>

#include "simd/multiply.h"

namespace tsgen {

Doubles product(const double* a, const Factor& b, int64_t M, int64_t N, int64_t K) {
  using namespace cpu;
  Doubles packed(TSGEN_BEST(packed_doubles_size)(N, K)), out(M * N);
  TSGEN_BEST(pack_doubles)(b.at, b.stride_k, b.stride_n, N, K, packed.data());
  TSGEN_BEST(multiply_doubles)(a, packed.data(), out.data(), M, N, K);
  return out;
}

Doubles linear(const Doubles& x, const Doubles& weight, const Doubles& bias, int64_t K) {
  const int64_t M = (int64_t)x.size() / K, N = (int64_t)bias.size();
  Doubles out = product(x.data(), transposed(weight.data(), K), M, N, K);
  for (int64_t i = 0; i < M * N; ++i) out[i] += bias[i % N];
  return out;
}

void gelu(Doubles& x) {
  for (double& value : x) value *= 0.5 * (1 + std::erf(value * M_SQRT1_2));
}

}  // namespace tsgen
