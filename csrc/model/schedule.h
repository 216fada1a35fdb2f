// How many tokens are still masked after each decoding step, see tsgen/schedule.py.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace tsgen {

// floor(n_unknown γ((t + 1) / steps)) of every step t; 0 after the last.
std::vector<int64_t> masked_counts(Schedule schedule, int64_t steps, int64_t n_unknown);

}  // namespace tsgen
