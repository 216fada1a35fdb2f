#include "model/schedule.h"

#include <algorithm>
#include <cmath>

namespace tsgen {
namespace {

// γ: the share of unknown tokens still masked once `ratio` of the steps are done.
double masked_share(Schedule schedule, double ratio, int64_t n_unknown) {
  const double bits = std::log2((double)std::max<int64_t>(2, n_unknown));
  switch (schedule) {
    case Schedule::linear:
      return 1 - ratio;
    case Schedule::square:
      return 1 - std::pow(ratio, 2.0);
    case Schedule::cubic:
      return 1 - std::pow(ratio, 3.0);
    case Schedule::sqrt:
      return 1 - std::pow(ratio, 0.5);
    case Schedule::cosine:
      return std::cos(M_PI / 2 * ratio);
    case Schedule::log:
      return -std::log2(ratio) / bits;
    default:
      return 1 - std::pow(2.0, -bits * (1 - ratio));
  }
}

}  // namespace

std::vector<int64_t> masked_counts(Schedule schedule, int64_t steps, int64_t n_unknown) {
  std::vector<int64_t> counts(steps);
  for (int64_t t = 0; t + 1 < steps; ++t) {
    const double share = masked_share(schedule, (double)(t + 1) / (double)steps, n_unknown);
    counts[t] = (int64_t)std::floor((double)n_unknown * std::clamp(share, 0.0, 1.0));
  }
  return counts;
}

}  // namespace tsgen
