// Philox blocks side by side, a vector of each word. csrc/philox.h has the law.
//
// For files in csrc/cpu/simd only, see vectors.h.
#pragma once

#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {

typedef uint32_t Words __attribute__((TSGEN_VECTOR, aligned(4), may_alias));
typedef uint64_t Pairs __attribute__((TSGEN_VECTOR, aligned(4), may_alias));  // the even word lower

// All 64 bits of every even word's product.
static inline Pairs multiply_even(Pairs a, uint32_t by) {
#if defined(__AVX512F__)
  // masked by nothing, as in vectors.h
  return (Pairs)_mm512_maskz_mul_epu32((__mmask8)-1, (__m512i)a, (__m512i)(Pairs{} + by));
#elif defined(__AVX2__)
  return (Pairs)_mm256_mul_epu32((__m256i)a, (__m256i)(Pairs{} + by));
#else
  return (a & 0xFFFFFFFF) * by;
#endif
}

struct Product {
  Words high, low;
};

static inline Product multiply(Words a, uint32_t by) {
  const Pairs even = multiply_even((Pairs)a, by), odd = multiply_even((Pairs)a >> 32, by);
  const uint64_t low = 0xFFFFFFFF;
  return {(Words)(even >> 32 | (odd & ~low)), (Words)((even & low) | odd << 32)};
}

struct PhiloxVectors {
  Words word[4];
};

static inline PhiloxVectors philox4x32(PhiloxVectors counter, uint64_t key) {
  uint32_t key0 = (uint32_t)key, key1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const Words* const c = counter.word;
    const Product a = multiply(c[0], 0xD2511F53), b = multiply(c[2], 0xCD9E8D57);
    counter = {{b.high ^ c[1] ^ key0, b.low, a.high ^ c[3] ^ key1, a.low}};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

}  // namespace tsgen::cpu::TSGEN_ISA
