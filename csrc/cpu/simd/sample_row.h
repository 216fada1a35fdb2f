// One draw from one row of logits, see tsgen/ops/sample_code.py.
#pragma once

#include <cstdint>

#include "machine/isa.h"

namespace tsgen::cpu {

struct SampleSettings {
  double temperature = 1;  // 0 takes the largest logit, the lower code on a tie
  int64_t top_k = 0;       // 0 for all
  double top_p = 1;
};

struct SampledCode {
  int64_t id;
  float logp;  // NaN where the row has no law, then id is 0
};

// Memory that a draw works in.
struct SampleScratch {
  float* weights;  // n_weights(K)
  double* sums;    // n_sums(K)

  static constexpr int64_t n_sums(int64_t K) { return (K + 31) / 32; }  // one a group
  static constexpr int64_t n_weights(int64_t K) { return n_sums(K) * 32; }
};

// logits (K), u in (0, 1); the same bits for the same row, whatever else is sampled
using SampleRow = SampledCode(const float* logits, double u, const SampleSettings& settings,
                              SampleScratch scratch, int64_t K);

TSGEN_EACH_ISA(SampleRow sample_row;)

}  // namespace tsgen::cpu
