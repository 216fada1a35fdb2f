// LANES vectors taken as a square: transposed, or summed along its rows.
//
// For files in csrc/cpu/simd only, see vectors.h.
#pragma once

#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {

// Two vectors' blocks of h lanes: those at even places together, and those at odd places.
template <int h>
static inline void deal(Floats& a, Floats& b) {
  Ints even, odd;
  for (int i = 0; i < LANES; ++i) {
    even[i] = i & h ? LANES + i - h : i;
    odd[i] = i & h ? LANES + i : i + h;
  }
  const Floats first = pick(a, b, even);
  b = pick(a, b, odd), a = first;
}

// x[r][i] becomes x[i][r].
template <int h = LANES / 2>
static inline void turn(Floats* x) {
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i)
    if (!(i & h)) deal<h>(x[i], x[i + h]);
  if constexpr (h > 1) turn<h / 2>(x);
}

// Lane r is the sum of x[r], in the order of sum.
template <int h = LANES / 2>
static inline Floats sums(Floats* x) {
#pragma GCC unroll 8
  for (int i = 0; i < h; ++i) deal<h>(x[i], x[i + h]), x[i] += x[i + h];
  if constexpr (h > 1) return sums<h / 2>(x);
  return x[0];
}

}  // namespace tsgen::cpu::TSGEN_ISA
