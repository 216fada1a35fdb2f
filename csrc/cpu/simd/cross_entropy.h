#pragma once

#include <cstdint>

#include "machine/isa.h"

namespace tsgen::cpu {

// -log softmax(logits)[target] of one row of K; backward leaves its gradient, times `scale`, in the
// place of the logits.
using CrossEntropyRow = double(const float* logits, int64_t target, int64_t K);
using CrossEntropyRowBackward = double(float* logits, int64_t target, float scale, int64_t K);

TSGEN_EACH_ISA(CrossEntropyRow cross_entropy_row;
               CrossEntropyRowBackward cross_entropy_row_backward;)

}  // namespace tsgen::cpu
