// The row of keep_row.h, once per instruction set.
#pragma once

#include <cstdint>

#include "machine/isa.h"

namespace tsgen::cpu {

using KeepFloats = void(const float* confidence, int64_t n_masked, uint8_t* masked, int64_t N);
using KeepDoubles = void(const double* confidence, int64_t n_masked, uint8_t* masked, int64_t N);

TSGEN_EACH_ISA(KeepFloats keep_floats; KeepDoubles keep_doubles;)

}  // namespace tsgen::cpu
