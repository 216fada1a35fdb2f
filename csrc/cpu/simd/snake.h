#pragma once

#include <cstdint>

#include "machine/isa.h"

namespace tsgen::cpu {

// sin²(ay)/a is a y² at this frequency: the limit at a = 0 instead of 0/0.
static inline float nonzero(float a) { return a == 0 ? 1e-9f : a; }

struct SnakeGradients {
  double a, gain, shift;
};

// One row of S numbers, all of one channel.
using SnakeRow = void(const float* x, float a, float gain, float shift, float* out, int64_t S);
using SnakeRowBackward = SnakeGradients(const float* grad_out, const float* x, float a, float gain,
                                        float shift, float* grad_x, int64_t S);

TSGEN_EACH_ISA(SnakeRow snake_row; SnakeRowBackward snake_row_backward;)

}  // namespace tsgen::cpu
