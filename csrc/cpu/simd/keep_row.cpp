// The confidence that parts a row, by halving the range it lies in: no memory beside the row, and
// no more passes over it than a confidence has bits, about log2(N) of them in practice.
#include "simd/keep_row.h"

#include "simd/places.h"
#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

typedef double Doubles __attribute__((TSGEN_VECTOR, aligned(8), may_alias));
typedef int64_t Longs __attribute__((TSGEN_VECTOR, aligned(8), may_alias));

struct OfFloats {
  using Number = float;
  using Numbers = Floats;
  using Counts = Ints;
};
struct OfDoubles {
  using Number = double;
  using Numbers = Doubles;
  using Counts = Longs;
};

constexpr double INFINITE = __builtin_inf();

// A row in vectors, +inf behind its end.
template <typename Of>
struct Row {
  using Number = typename Of::Number;
  using Numbers = typename Of::Numbers;
  static constexpr int64_t WIDTH = sizeof(Numbers) / sizeof(Number);

  const Number* from;
  int64_t N;
  Number last[WIDTH];

  Row(const Number* confidence, int64_t n) : from(confidence), N(n) {
    for (int64_t i = 0; i < WIDTH; ++i)
      last[i] = i < N % WIDTH ? from[N - N % WIDTH + i] : (Number)INFINITE;
  }
  Numbers at(int64_t i) const {
    const Numbers x = *(const Numbers*)(i + WIDTH <= N ? from + i : last);
    return x == x ? x : Numbers{} - (Number)INFINITE;
  }
};

// What one pass finds out about a bound: how many lie at it or below, and its two neighbours.
template <typename Number>
struct Split {
  int64_t n_low;
  Number largest_low, smallest_high;
};

template <typename Of>
Split<typename Of::Number> split(const Row<Of>& row, typename Of::Number bound) {
  using Number = typename Of::Number;
  using Numbers = typename Of::Numbers;
  using Counts = typename Of::Counts;
  const Numbers infinite = Numbers{} + (Number)INFINITE;
  Counts count{};
  Numbers low = -infinite, high = infinite;
  for (int64_t i = 0; i < row.N; i += row.WIDTH) {
    const Numbers x = row.at(i);
    const Counts is_low = x <= bound;
    count -= is_low;
    const Numbers a = is_low ? x : -infinite, b = is_low ? infinite : x;
    low = a > low ? a : low, high = b < high ? b : high;
  }
  Split<Number> out{count[0], low[0], high[0]};
  for (int64_t i = 1; i < row.WIDTH; ++i) {
    out.n_low += count[i];
    out.largest_low = low[i] > out.largest_low ? low[i] : out.largest_low;
    out.smallest_high = high[i] < out.smallest_high ? high[i] : out.smallest_high;
  }
  return out;
}

template <typename Of>
void keep(const typename Of::Number* confidence, int64_t n_masked, uint8_t* masked, int64_t N) {
  using Number = typename Of::Number;
  const Row<Of> row(confidence, N);
  if (n_masked >= N || n_masked <= 0) {
    __builtin_memset(masked, n_masked > 0, N);
    return;
  }
  // the least confident of those kept lies in [low, high], n_below under `low`
  Number low = -(Number)INFINITE, high = (Number)INFINITE;
  int64_t n_below = 0;
  while (low < high) {
    const auto from = place_of(low);
    const auto parts = split(row, at_place(from + (place_of(high) - from) / 2));
    if (parts.n_low > n_masked) {
      high = parts.largest_low;
    } else {
      low = parts.smallest_high, n_below = parts.n_low;
      if (n_below == n_masked) break;
    }
  }
  int64_t n_ties = n_masked - n_below;
  for (int64_t i = N - 1; i >= 0; --i) {
    const Number x = confidence[i] == confidence[i] ? confidence[i] : -(Number)INFINITE;
    const uint8_t below = x < low, tie = x == low, open = n_ties > 0;
    masked[i] = below | (tie & open);  // not && and ||: which way it goes is chance
    n_ties -= tie;
  }
}

}  // namespace

void keep_floats(const float* confidence, int64_t n_masked, uint8_t* masked, int64_t N) {
  keep<OfFloats>(confidence, n_masked, masked, N);
}

void keep_doubles(const double* confidence, int64_t n_masked, uint8_t* masked, int64_t N) {
  keep<OfDoubles>(confidence, n_masked, masked, N);
}

}  // namespace tsgen::cpu::TSGEN_ISA
