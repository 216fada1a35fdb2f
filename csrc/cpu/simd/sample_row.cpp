// One draw from a row of logits: weights and their cumulative sums by groups of codes, a search
// among the groups, then inside one of them.
#include "simd/sample_row.h"

#include "simd/places.h"
#include "simd/softmax.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

constexpr int PARTS = GROUP / LANES;
static_assert(SampleScratch::n_weights(1) == GROUP);
constexpr double SMALLEST_TEMPERATURE = 1.2e-38;  // float32 has no smaller normal number

// How a logit becomes its weight in the draw.
struct Scale {
  float largest, inverse_temperature;

  Floats operator()(Floats logits) const { return exp((logits - largest) * inverse_temperature); }
};

// Sum of all weights at temperature 1. Into scratch: the weights at that of `scale`, and their
// cumulative sums; with `same` both temperatures are 1.
template <bool same>
double weigh(const LogitRow& row, Scale scale, SampleScratch scratch) {
  double total = 0, total_drawn = 0;
  for (int64_t g = 0; g < row.n_groups; ++g) {
    const float* const from = row.group(g);
    Floats uncut{}, drawn{};
    for (int v = 0; v < PARTS; ++v) {
      const Floats x = load(from + v * LANES), w = exp(x - scale.largest);
      const Floats w_drawn = same ? w : scale(x);
      uncut += w, drawn += w_drawn;
      store(scratch.weights + g * GROUP + v * LANES, w_drawn);
    }
    total += sum(uncut);
    total_drawn = same ? total : total_drawn + sum(drawn);
    scratch.sums[g] = total_drawn;
  }
  return total;
}

void sum_again(SampleScratch scratch, int64_t n_groups) {
  double total = 0;
  for (int64_t g = 0; g < n_groups; ++g) {
    Floats part{};
    for (int v = 0; v < PARTS; ++v) part += load(scratch.weights + g * GROUP + v * LANES);
    scratch.sums[g] = total += sum(part);
  }
}

// The first code whose cumulative weight exceeds u of the whole.
int64_t search(SampleScratch scratch, int64_t n_groups, double u) {
  const double target = u * scratch.sums[n_groups - 1];
  int64_t g = 0;
  for (int64_t i = 0; i < n_groups - 1; ++i) g += scratch.sums[i] <= target;
  const float* const weights = scratch.weights + g * GROUP;
  const double rest = target - (g ? scratch.sums[g - 1] : 0.0);
  int64_t i = 0;
  double before = 0;
  for (; i < GROUP; i += 4) {  // additions wait for each other: one in four has to
    const float* const w = weights + i;
    const double next = before + (((double)w[0] + w[1]) + ((double)w[2] + w[3]));
    if (next > rest) break;
    before = next;
  }
  for (; i < GROUP; ++i)
    if ((before += weights[i]) > rest) return g * GROUP + i;
  // the group's float32 sum exceeds that of its codes: the last one with any weight
  for (i = GROUP - 1; i > 0 && !(weights[i] > 0);) --i;
  return g * GROUP + i;
}

int64_t count_from(const LogitRow& row, float least) {
  Ints count[PARTS]{};
  for (int64_t g = 0; g < row.n_groups; ++g)
    for (int v = 0; v < PARTS; ++v) count[v] -= (Ints)(load(row.group(g) + v * LANES) >= least);
  int64_t n = 0;
  for (int v = 0; v < PARTS; ++v)
    for (int i = 0; i < LANES; ++i) n += count[v][i];
  return n;
}

double weight_above(const LogitRow& row, const float* weights, float bound) {
  constexpr int64_t SOON = 8;  // groups after which float32 lanes go to the float64 sum
  double total = 0;
  for (int64_t first = 0; first < row.n_groups; first += SOON) {
    Floats part[PARTS]{};
    for (int64_t g = first; g < first + SOON && g < row.n_groups; ++g)
      for (int v = 0; v < PARTS; ++v) {
        const Floats w = load(weights + g * GROUP + v * LANES);
        part[v] += load(row.group(g) + v * LANES) > bound ? w : Floats{};
      }
    for (int v = 0; v < PARTS; ++v) total += sum(part[v]);
  }
  return total;
}

// No weight for codes with a logit below `least`, or equal to it behind the first n of these.
void drop(const LogitRow& row, float* weights, float least, int64_t n) {
  for (int64_t k = 0; k < row.K; ++k) {
    const float x = row.logits[k];
    if (x < least || (x == least && --n < 0)) weights[k] = 0.0f;
  }
}

void keep_top_k(const LogitRow& row, float* weights, float largest, int64_t top_k) {
  uint32_t low = place_of(-__builtin_inff()), high = place_of(largest);
  int64_t above = 0;    // codes with a logit from the place behind `high` on
  while (low < high) {  // the largest logit that top_k codes reach
    const uint32_t middle = low + (high - low + 1) / 2;
    const int64_t n = count_from(row, at_place(middle));
    if (n >= top_k)
      low = n == top_k ? high = middle : middle;
    else
      high = middle - 1, above = n;
  }
  drop(row, weights, at_place(low), top_k - above);
}

// A code stays if what is more likely, or as likely and before it, holds less than top_p.
void keep_top_p(const LogitRow& row, float* weights, float largest, double top_p) {
  const double enough = top_p * weight_above(row, weights, -__builtin_inff());
  uint32_t low = place_of(-__builtin_inff()), high = place_of(largest);
  while (low < high) {  // the least logit that has less than enough above it
    const uint32_t middle = low + (high - low) / 2;
    if (weight_above(row, weights, at_place(middle)) < enough)
      high = middle;
    else
      low = middle + 1;
  }
  const float least = at_place(low);
  const double rest = enough - weight_above(row, weights, least);
  const double each = weights[first_with(row, least)];
  drop(row, weights, least, (int64_t)__builtin_ceil(rest / each));
}

}  // namespace

SampledCode sample_row(const float* logits, double u, const SampleSettings& settings,
                       SampleScratch scratch, int64_t K) {
  const LogitRow row(logits, K);
  const float largest = largest_logit(row);
  const bool greedy = settings.temperature < SMALLEST_TEMPERATURE;
  const bool same = greedy || settings.temperature == 1;
  const double inverse = same ? 1.0 : 1 / settings.temperature;
  const Scale scale{largest, inverse < 1.2e-38 ? 1.2e-38f : (float)inverse};
  const double total = same ? weigh<true>(row, scale, scratch) : weigh<false>(row, scale, scratch);
  if (!(total > 0)) return {0, __builtin_nanf("")};

  int64_t id;
  if (greedy) {
    id = first_with(row, largest);
  } else {
    const bool some = 0 < settings.top_k && settings.top_k < K;
    if (some) keep_top_k(row, scratch.weights, largest, settings.top_k);
    if (settings.top_p < 1) keep_top_p(row, scratch.weights, largest, settings.top_p);
    if (some || settings.top_p < 1) sum_again(scratch, row.n_groups);
    id = search(scratch, row.n_groups, u);
  }
  return {id, (float)((double)logits[id] - largest - __builtin_log(total))};
}

}  // namespace tsgen::cpu::TSGEN_ISA
