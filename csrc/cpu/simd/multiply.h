// Matrix products in float64: weights are folded in it before they are packed.
#pragma once

#include <cstdint>

#include "machine/isa.h"

namespace tsgen::cpu {

using PackedDoublesSize = int64_t(int64_t N, int64_t K);
// B[k, n] = from[k * stride_k + n * stride_n]
using PackDoubles = void(const double* from, int64_t stride_k, int64_t stride_n, int64_t N,
                         int64_t K, double* to);
// C = A B    a (M, K), B packed, c (M, N); a row's sums run over k in order
using MultiplyDoubles = void(const double* a, const double* packed_b, double* c, int64_t M,
                             int64_t N, int64_t K);

TSGEN_EACH_ISA(PackedDoublesSize packed_doubles_size; PackDoubles pack_doubles;
               MultiplyDoubles multiply_doubles;)

}  // namespace tsgen::cpu
