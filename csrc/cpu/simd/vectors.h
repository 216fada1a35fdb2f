// Vectors of floats as wide as the instruction set has them, and the functions of them.
//
// For files in csrc/cpu/simd only, which are compiled once per instruction set with TSGEN_ISA set.
// No std templates in them: the linker keeps one copy of each for the whole library, and it could
// keep the AVX-512 one. With FMA (avx2, avx512) a lane computes the same bits at either width.
#pragma once

#include <cstdint>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace tsgen::cpu::TSGEN_ISA {

#if defined(__AVX512F__)
#define TSGEN_VECTOR vector_size(64)
#elif defined(__AVX2__)
#define TSGEN_VECTOR vector_size(32)
#else  // what every x86-64 and aarch64 has; wider vectors than the machine's go through memory
#define TSGEN_VECTOR vector_size(16)
#endif

typedef float Floats __attribute__((TSGEN_VECTOR, aligned(4), may_alias));
typedef int32_t Ints __attribute__((TSGEN_VECTOR, aligned(4), may_alias));
constexpr int LANES = sizeof(Floats) / sizeof(float);

// n numbers' room in whole vectors.
static inline int64_t whole_vectors(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

static inline Floats load(const float* from) { return *(const Floats*)from; }
static inline void store(float* to, Floats x) { *(Floats*)to = x; }
// x - 0 is x for every x; 0 + x is not for -0, and would cost an addition
static inline Floats all(float x) { return x - Floats{}; }

// The first n < LANES floats, zeros in the other lanes; nothing else is read.
static inline Floats load_first(const float* from, int64_t n) {
#if defined(__AVX512F__)
  return (Floats)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), from);
#else
  Floats x{};
  for (int64_t i = 0; i < n; ++i) x[i] = from[i];
  return x;
#endif
}

static inline void store_first(float* to, Floats x, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), (__m512)x);
#else
  for (int64_t i = 0; i < n; ++i) to[i] = x[i];
#endif
}

// As many of n as a vector holds.
static inline Floats load_some(const float* from, int64_t n) {
  return n >= LANES ? load(from) : load_first(from, n);
}

static inline void store_some(float* to, Floats x, int64_t n) {
  if (n >= LANES)
    store(to, x);
  else
    store_first(to, x, n);
}

// The second where either is NaN, as vmaxps has it.
static inline Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
  // masked by nothing: GCC 12 warns of what its plain form leaves undefined
  return (Floats)_mm512_maskz_max_ps((__mmask16)-1, (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

static inline Floats smaller(Floats a, Floats b) {
#if defined(__AVX512F__)
  return (Floats)_mm512_maskz_min_ps((__mmask16)-1, (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Floats)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return a < b ? a : b;
#endif
}

static inline Floats magnitude(Floats x) { return (Floats)((Ints)x & 0x7FFFFFFF); }

// To the nearest whole number, for |x| < 2^22: larger ones have no bits to lose that count here.
static inline Floats nearest(Floats x) {
  const float big = 12582912.0f;  // 1.5 * 2^23
  return (x + big) - big;
}

// Lane i of the result is lane from[i] of a, or of b from LANES on.
static inline Floats pick(Floats a, Floats b, Ints from) {
#ifdef __clang__
  Floats out;
  for (int i = 0; i < LANES; ++i) out[i] = from[i] < LANES ? a[from[i]] : b[from[i] - LANES];
  return out;
#else
  return __builtin_shuffle(a, b, from);
#endif
}

// Lanes `half` apart change places.
template <int half>
static inline Floats crossed(Floats x) {
  Ints from;
  for (int i = 0; i < LANES; ++i) from[i] = i ^ half;
  return pick(x, x, from);
}

// Lanes in a fixed tree: halves are added.
template <int half = LANES / 2>
static inline float sum(Floats x) {
  x += crossed<half>(x);
  if constexpr (half > 1) return sum<half / 2>(x);
  return x[0];
}

template <int half = LANES / 2>
static inline float largest(Floats x) {
  x = larger(x, crossed<half>(x));
  if constexpr (half > 1) return largest<half / 2>(x);
  return x[0];
}

// Whether any lane has a bit set.
static inline bool any(Ints x) {
  typedef int64_t Two __attribute__((vector_size(16), aligned(4), may_alias));
  const Two* const part = (const Two*)&x;
  Two bits = part[0];
  for (int i = 1; i < LANES / 4; ++i) bits |= part[i];
  return (bits[0] | bits[1]) != 0;
}

constexpr float EXPONENT = 12583039.0f;  // 1.5 * 2^23 + 127: added to a number, its last bits are
                                         // the nearest whole n, plus 127

// 2^n (1 + f P(f)) for |f| <= 1/2 and `shifted` = n + EXPONENT: 2^(n + f) to 3e-7, and 0 at n =
// -127.
static inline Floats assembled(Floats shifted, Floats f) {
  Floats p = all(1.326472725e-3f);  // minimax
  p = p * f + 9.671512688e-3f;
  p = p * f + 5.550733744e-2f;
  p = p * f + 2.402224208e-1f;
  p = p * f + 6.931469776e-1f;
  p = p * f + 1.0f;
  const Floats power = (Floats)((Ints)shifted << 23);  // to where a float has its exponent
  return p * power;  // not a sum of bits: it leaves NaN what it is
}

// 2^x for x <= 0; exactly 0 below -126.5.
static inline Floats two_to(Floats x) {
  const Floats y = larger(all(-127.0f), x), shifted = y + EXPONENT;  // NaN stays
  return assembled(shifted, y - (shifted - EXPONENT));
}

// e^x for x <= 0; exactly 0 below -87.7.
static inline Floats exp(Floats x) {
  const Floats y = larger(all(-88.03f), x), shifted = y * 1.44269504f + EXPONENT;  // NaN stays
  return assembled(shifted, y * 1.44269504f - (shifted - EXPONENT));
}

// (2 / sqrt π) ∫ e^(-t²) from 0 to x, to 4e-7: x P(x²) / Q(x²), fitted on |x| < 3.95.
static inline Floats erf(Floats x) {
  const Floats y = smaller(larger(x, all(-3.95f)), all(3.95f)), u = y * y;
  Floats p = all(2.0117345e-6f), q = all(3.783966e-5f);
  p = p * u + 2.8760123e-4f, q = q * u + 1.1982085e-3f;
  p = p * u + 3.9173504e-3f, q = q * u + 1.5270767e-2f;
  p = p * u + 5.3207159e-2f, q = q * u + 1.1559107e-1f;
  p = p * u + 1.9403647e-1f, q = q * u + 5.0529182e-1f;
  p = p * u + 1.1283790f, q = q * u + 1.0f;
  return x == x ? y * p / q : x;
}

// x Φ(x), Hendrycks & Gimpel 2016.
static inline Floats gelu(Floats x) { return 0.5f * x * (1.0f + erf(x * 0.70710678f)); }

struct SineCosine {
  Floats sine, cosine;
};

// sin and cos of x modulo π: both with the wrong sign or both with the right one, so that
// squares and products of the two are right. To 1e-7 for |x| < 1e4, after that as good as x is.
static inline SineCosine half_turn(Floats x) {
  const Floats k = nearest(x * 0.318309886f);
  Floats r = x - k * 3.140625f;  // π in three parts, the first two without rounding
  r = r - k * 9.67502593994e-4f;
  r = r - k * 1.509957990978e-7f;
  const Floats u = r * r;
  Floats s = all(2.6057808e-6f);
  s = s * u - 1.9809602e-4f;
  s = s * u + 8.3330665e-3f;
  s = s * u - 1.6666660e-1f;
  Floats c = all(-2.6193814e-7f);
  c = c * u + 2.4769304e-5f;
  c = c * u - 1.3888569e-3f;
  c = c * u + 4.1666657e-2f;
  return {r + r * u * s, 1.0f - 0.5f * u + u * u * c};
}

// The same for any x: beyond 1e4 in float64, lane by lane.
static inline SineCosine sine_cosine(Floats x) {
  const float far = 1e4f;
  SineCosine out = half_turn(x);
  if (largest(magnitude(x)) < far) return out;
  for (int i = 0; i < LANES; ++i)
    if (!(__builtin_fabsf(x[i]) < far)) {  // NaN and infinity too
      out.sine[i] = (float)__builtin_sin((double)x[i]);
      out.cosine[i] = (float)__builtin_cos((double)x[i]);
    }
  return out;
}

}  // namespace tsgen::cpu::TSGEN_ISA
