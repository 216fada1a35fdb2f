// Numbers on their way to a grid of codes, as tsgen/quantisers/fsq.py has them.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace tsgen {

// Near the level that x is rounded to, between -1 and 1.
TSGEN_HOST_DEVICE static inline float bounded(double x, int64_t n_levels) {
  constexpr double EPSILON = 1e-3;
  const double half = (double)(n_levels - 1) * (1 - EPSILON) / 2;
  const double offset = n_levels % 2 == 0 ? 0.5 : 0;
  const double level = tanh(x + atanh(offset / half)) * half - offset;
  return (float)(level / (double)(n_levels / 2));
}

}  // namespace tsgen
