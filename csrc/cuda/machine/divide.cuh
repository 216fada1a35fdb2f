// Division by a number that a whole launch shares, as a multiplication.
#pragma once

#include "cuda/machine/launch.cuh"

namespace tsgen::cuda {

// x / Divisor(n) for 0 <= x < 2^31 and 0 < n < 2^31, exactly. Granlund & Montgomery 1994, fig. 4.1.
struct Divisor {
  explicit Divisor(int64_t n) {
    while (((int64_t)1 << shift) < n) ++shift;
    multiplier = (unsigned)(((((uint64_t)1 << shift) - n) << 32) / n + 1);
  }
  unsigned multiplier;
  int shift = 0;
};

__device__ __forceinline__ int operator/(int x, Divisor by) {
  return (int)((__umulhi((unsigned)x, by.multiplier) + (unsigned)x) >> by.shift);
}

}  // namespace tsgen::cuda
