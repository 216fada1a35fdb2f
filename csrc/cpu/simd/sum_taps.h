#pragma once

#include <cstdint>

#include "machine/isa.h"

namespace tsgen::cpu {

// One of the batch: products (M, T, F), source (N), bias (F).
struct SumTaps {
  const float *products, *bias;
  const int64_t* source;
  int64_t M, T, F, N;
};

// h (N, F); mean (F) and squares (F), the sum of (h - mean)², of its rows
using SumTapsForward = void(const SumTaps& op, float* h, float* mean, float* squares);
// grad_products (M, T, F) and grad_bias (F) from grad_h + add + slope (h - mean), the latter (F)
using SumTapsBackward = void(const SumTaps& op, const float* grad_h, const float* add,
                             const float* slope, const float* mean, float* row,
                             float* grad_products, float* grad_bias);

TSGEN_EACH_ISA(SumTapsForward sum_taps_forward; SumTapsBackward sum_taps_backward;)

}  // namespace tsgen::cpu
