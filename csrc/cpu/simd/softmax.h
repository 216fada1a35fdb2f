// Weights of a row of logits under softmax, in groups of codes.
//
// For files in csrc/cpu/simd only, see vectors.h.
#pragma once

#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {

constexpr int GROUP = 32;  // codes whose weights are summed in float32; the rest is float64

// K logits by groups. Behind the last code stands -inf, which weighs nothing.
struct LogitRow {
  const float* logits;
  int64_t K, n_groups;
  float last[GROUP];

  LogitRow(const float* logits_K, int64_t n_codes)
      : logits(logits_K), K(n_codes), n_groups((n_codes + GROUP - 1) / GROUP) {
    const int64_t rest = K % GROUP;
    if (!rest) return;
    for (int i = 0; i < GROUP; ++i) last[i] = i < rest ? logits[K - rest + i] : -__builtin_inff();
  }
  const float* group(int64_t g) const { return (g + 1) * GROUP <= K ? logits + g * GROUP : last; }
};

// Of all but NaN; of a row with NaN any of its logits, or NaN.
static inline float largest_logit(const LogitRow& row) {
  Floats best[GROUP / LANES];
  for (int v = 0; v < GROUP / LANES; ++v) best[v] = all(-__builtin_inff());
  for (int64_t g = 0; g < row.n_groups; ++g) {
    const float* const from = row.group(g);
    for (int v = 0; v < GROUP / LANES; ++v) best[v] = larger(load(from + v * LANES), best[v]);
  }
  for (int v = 1; v < GROUP / LANES; ++v) best[0] = larger(best[v], best[0]);
  return largest(best[0]);
}

// The first code with this logit, which has to be one of the row's.
static inline int64_t first_with(const LogitRow& row, float logit) {
  int64_t g = 0;
  for (; g < row.n_groups - 1; ++g) {
    Ints found{};
    for (int v = 0; v < GROUP / LANES; ++v)
      found |= (Ints)(load(row.group(g) + v * LANES) == logit);
    if (any(found)) break;
  }
  const float* const group = row.group(g);
  int64_t k = 0;
  while (k < GROUP - 1 && group[k] != logit) ++k;
  return g * GROUP + k;
}

}  // namespace tsgen::cpu::TSGEN_ISA
