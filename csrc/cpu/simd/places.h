// Floats in their order as whole numbers, to halve the distance between two of them. -0 and 0 are
// one number, NaN is none.
//
// For files in csrc/cpu/simd only, see vectors.h.
#pragma once

#include <cstdint>

namespace tsgen::cpu::TSGEN_ISA {

template <typename Place, typename Float>
static inline Place place(Float x) {
  constexpr Place zero = (Place)1 << (8 * sizeof(Place) - 1);
  Place bits;
  __builtin_memcpy(&bits, &x, sizeof x);
  return bits & zero ? zero - (bits & ~zero) : bits | zero;
}

template <typename Float, typename Place>
static inline Float at(Place place) {
  constexpr Place zero = (Place)1 << (8 * sizeof(Place) - 1);
  const Place bits = place >= zero ? place - zero : (zero - place) | zero;
  Float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

static inline uint32_t place_of(float x) { return place<uint32_t>(x); }
static inline uint64_t place_of(double x) { return place<uint64_t>(x); }
static inline float at_place(uint32_t p) { return at<float>(p); }
static inline double at_place(uint64_t p) { return at<double>(p); }

}  // namespace tsgen::cpu::TSGEN_ISA
