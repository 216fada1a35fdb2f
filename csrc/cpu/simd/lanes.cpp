// How wide vectors are, once per instruction set.
#include "simd/lanes.h"

#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {

int64_t lane_count() { return LANES; }

}  // namespace tsgen::cpu::TSGEN_ISA
