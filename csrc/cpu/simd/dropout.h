#pragma once

#include <cstdint>

#include "machine/isa.h"

namespace tsgen::cpu {

constexpr int64_t DROPOUT_GROUP = 128;  // elements that 16 blocks of Philox decide about

// Elements [first, end) of all, first a multiple of DROPOUT_GROUP; residual may be null. An element
// whose 16 bits are below n_dropped is dropped.
using Dropout = void(const float* x, const float* residual, float* out, int64_t first, int64_t end,
                     uint64_t seed, int32_t n_dropped);

TSGEN_EACH_ISA(Dropout dropout_groups;)

}  // namespace tsgen::cpu
