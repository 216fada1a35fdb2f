// Rows of numbers for attention: their norms, copies, columns and softmax.
//
// Scratch memory holds rows padded to whole vectors, so that only what comes from others, or goes
// to them, needs care at its end.
#pragma once

#include "simd/gemm.h"
#include "simd/turn.h"

namespace tsgen::cpu::TSGEN_ISA {

static inline Floats square_root(Floats x) {
#if defined(__AVX512F__)
  return (Floats)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (Floats)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < LANES; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// Rows of D numbers; the first may lie elsewhere.
struct Rows {
  const float* null;  // or there is none
  const float* others;
  int64_t stride, D;
  const float* operator[](int64_t i) const {
    return null ? i ? others + (i - 1) * stride : null : others + i * stride;
  }
};

// Lane r is x[i + r] . y[i + r], or x[i + r] . y[0] if y stands still; 0 from row n on.
static inline Floats dots(const Rows& x, const Rows& y, int64_t i, int64_t n) {
  Floats sum[LANES]{};
  const float *a[LANES], *b[LANES];
  for (int r = 0; r < LANES; ++r) {
    const int64_t row = i + r < n ? i + r : i;  // an address that may be read
    a[r] = x[row], b[r] = y[row];
  }
  for (int64_t d = 0; d < x.D; d += LANES)
#pragma GCC unroll 16
    for (int r = 0; r < LANES; ++r)
      sum[r] += load_some(a[r] + d, x.D - d) * load_some(b[r] + d, x.D - d);
  return sums(sum);
}

// to[i] = 1 / max(|x[i]|, eps) for n rows and up to a whole vector.
static inline void inverse_norms(const Rows& x, int64_t n, float eps, float* to) {
  for (int64_t i = 0; i < n; i += LANES) {
    const Floats norm = square_root(dots(x, x, i, n));
    store(to + i, 1.0f / (norm < eps ? all(eps) : norm));
  }
}

// n rows times scale (n) or 1, with zeros behind D up to whole vectors.
static inline void copy_rows(const Rows& x, int64_t n, const float* scale, float* to) {
  for (int64_t i = 0; i < n; ++i) {
    const float* const from = x[i];
    const float s = scale ? scale[i] : 1.0f;
    int64_t d = 0;
    for (; d + LANES <= x.D; d += LANES, to += LANES) store(to, load(from + d) * s);
    if (d < x.D) store(to, load_first(from + d, x.D - d) * s), to += LANES;
  }
}

// n rows, times scale (n) and weight (D) or 1 -> panels (n / PANEL, D, PANEL), zeros behind n.
static inline void transpose(const Rows& from, int64_t n, const float* scale, const float* weight,
                             float* to) {
  const int64_t deep = whole_vectors(from.D);
  for (int64_t i = 0; i < n; i += LANES)
    for (int64_t d = 0; d < deep; d += LANES) {
      const Floats w = weight ? load(weight + d) : Floats{} + 1.0f;
      Floats x[LANES];
#pragma GCC unroll 16
      for (int r = 0; r < LANES; ++r) {
        x[r] = i + r < n ? load_some(from[i + r] + d, from.D - d) * w : Floats{};
        if (scale && i + r < n) x[r] *= scale[i + r];
      }
      turn(x);
      float* const panel = to + i / PANEL * PANEL * deep + i % PANEL;
#pragma GCC unroll 16
      for (int r = 0; r < LANES; ++r) store(panel + (d + r) * PANEL, x[r]);
    }
}

// s[r, 0:n] = softmax(scale[r] s[r]) for M rows of n numbers, zeros behind n up to whole vectors.
// 0 where every score is -inf. In three passes over all rows, so that a row need not wait for the
// sum of the one before it. scale is overwritten.
static inline void softmax(float* s, float* scale, int64_t M, int64_t n) {
  const int64_t wide = whole_vectors(n), last = wide - LANES;
  Ints lane;
  for (int i = 0; i < LANES; ++i) lane[i] = i;
  const Ints used = lane < (int32_t)(n - last);
  const Floats least = all(-1e30f);  // finite, so that -inf - least is -inf

  for (int64_t r = 0; r < M; ++r) {
    float* const row = s + r * wide;
    Floats best = least;  // NaN never gets in
    for (int64_t i = 0; i < last; i += LANES) best = larger(load(row + i), best);
    best = larger(used ? load(row + last) : least, best);
    scale[r] *= 1.44269504f;  // powers of 2
    scale[M + r] = largest(best) * scale[r];
  }
  for (int64_t r = 0; r < M; ++r) {
    float* const row = s + r * wide;
    // the shift is rounded, and that for the whole row, which does not change a softmax
    const float unit = scale[r], shift = scale[M + r];
    Floats total{};
    for (int64_t i = 0; i < last; i += LANES) {
      const Floats e = two_to(load(row + i) * unit - shift);
      store(row + i, e);
      total += e;
    }
    const Floats e = used ? two_to(load(row + last) * unit - shift) : Floats{};
    store(row + last, e);
    const float total_weight = sum(total + e);
    scale[r] = total_weight == 0 ? 0.0f : 1.0f / total_weight;
  }
  for (int64_t r = 0; r < M; ++r)
    for (int64_t i = 0; i < wide; i += LANES)
      store(s + r * wide + i, load(s + r * wide + i) * scale[r]);
}

}  // namespace tsgen::cpu::TSGEN_ISA
