// Mean and variance of a channel from those of its parts.
#pragma once

#include <cstdint>

namespace tsgen::cpu {

struct Moments {
  double n, mean, squares;  // how many numbers, and Σ (x - mean)²
};

// The same of both together (Chan et al. 1979).
static inline void add(Moments& all, const Moments& part) {
  const double n = all.n + part.n, away = part.mean - all.mean;
  all.squares += part.squares + away * away * (all.n * part.n / n);
  all.mean += away * (part.n / n);
  all.n = n;
}

}  // namespace tsgen::cpu
