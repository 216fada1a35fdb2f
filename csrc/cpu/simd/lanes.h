#pragma once

#include <cstdint>

#include "machine/isa.h"

namespace tsgen::cpu {

using LaneCount = int64_t();  // floats in a vector

TSGEN_EACH_ISA(LaneCount lane_count;)

}  // namespace tsgen::cpu
