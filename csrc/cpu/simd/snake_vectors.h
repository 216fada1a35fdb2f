// Snake of one vector: y + sin²(a y) / a with y = gain x + shift, and its derivatives.
//
// For files in csrc/cpu/simd only, see vectors.h.
#pragma once

#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {

struct SnakeSums {
  Floats a{}, gain{}, shift{};
};

static inline Floats snake(Floats x, float a, float gain, float shift) {
  const Floats y = x * gain + shift, sine = sine_cosine(y * a).sine;
  return y + sine * (sine / a);
}

static inline Floats snake_backward(Floats grad, Floats x, float a, float gain, float shift,
                                    SnakeSums& sums) {
  const Floats y = x * gain + shift;
  const auto [sine, cosine] = sine_cosine(y * a);
  const Floats twice = 2.0f * sine * cosine;  // sin(2 a y)
  const Floats grad_y = grad * (1.0f + twice);
  sums.a += grad * (y * twice - sine * (sine / a));
  sums.gain += grad_y * x;
  sums.shift += grad_y;
  return grad_y * gain;
}

}  // namespace tsgen::cpu::TSGEN_ISA
