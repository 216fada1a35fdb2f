// Which positions of one row stay masked: masked[i] = 1 for the n_masked lowest confidences and 0
// for the others; on a tie the lower position stays 0; NaN is as low as -inf.
#pragma once

#include "simd/keep_row.h"

namespace tsgen::cpu {

inline void keep_row(const float* confidence, int64_t n_masked, uint8_t* masked, int64_t N) {
  TSGEN_BEST(keep_floats)(confidence, n_masked, masked, N);
}

inline void keep_row(const double* confidence, int64_t n_masked, uint8_t* masked, int64_t N) {
  TSGEN_BEST(keep_doubles)(confidence, n_masked, masked, N);
}

}  // namespace tsgen::cpu
