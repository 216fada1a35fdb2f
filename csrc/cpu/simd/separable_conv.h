#pragma once

#include <cstdint>

#include "machine/isa.h"
#include "simd/moments.h"

namespace tsgen::cpu {

enum class Taps { none, same, halve, twice };  // what the depthwise convolution does to the width

// y = W D(s(x)) + b: s is Snake or nothing, D a convolution of each channel by itself. See ops.h.
struct SeparableConv {
  const float *x, *a, *gain, *shift, *taps, *tap_bias, *weight, *bias;
  int64_t B, C, H, W, O, kernel_rows;
  Taps kind;
};

static inline int64_t out_width(const SeparableConv& op) {
  return op.kind == Taps::halve ? op.W / 2 : op.kind == Taps::twice ? 2 * op.W : op.W;
}

static inline int64_t taps_a_channel(const SeparableConv& op) {
  return op.kind == Taps::none ? 0 : op.kernel_rows * (op.kind == Taps::same ? 3 : 4);
}

// What the gradients are made from beside the op's own inputs.
struct SeparableGradients {
  const float* grad_y;
  const float *y, *mean, *grad_mean, *grad_var;  // null without statistics
  const float* weight_t;                         // weight transposed: (C, O)
  float* grad_x;
};

// Sums over some series, of every weight's gradient: floats in this order, (O, C), (O), (C, taps),
// (C), (C), (C), (C).
struct SeparableSums {
  float *weight, *bias, *taps, *tap_bias, *a, *gain, *shift;
};

using SeparableScratch = int64_t(const SeparableConv& op);
// The n <= lane_count() series from b on, one a SIMD lane. moments (O), of what they made, or null.
using SeparableForward = void(const SeparableConv& op, int64_t b, int64_t n, float* scratch,
                              float* y, Moments* moments);
using SeparableBackward = void(const SeparableConv& op, const SeparableGradients& grads, int64_t b,
                               int64_t n, float* scratch, const SeparableSums& sums);

TSGEN_EACH_ISA(SeparableScratch separable_scratch; SeparableForward separable_forward;
               SeparableBackward separable_backward;)

}  // namespace tsgen::cpu
