// One draw from a row of logits by one warp, with any cut: the row is gone over again and again.
//
// A cut keeps the codes whose logit is above a bound, and the first n_equal of those at it. As in
// kernels/sample_code.py the bound is found bit by bit, over the logits in order: the largest one
// from which on there is enough.
#pragma once

#include "cuda/machine/functions.cuh"
#include "cuda/machine/reduce.cuh"

namespace tsgen::cuda {

struct SampleSettings {
  float inverse;  // of the temperature
  int top_k;      // 0 for all
  double top_p;
  bool greedy, same;  // same: the temperature is 1
};

// Weight in the draw, and at temperature 1, of a code whose logit is `below` the reference.
__device__ __forceinline__ float weight_of(float below, const SampleSettings& how) {
  return exp2_fast(below * (how.inverse * LOG2_E));
}
__device__ __forceinline__ float weight_uncut(float below) { return exp2_fast(below * LOG2_E); }

struct Drawn {
  int id;
  float logit;
};

// total: of the weights at temperature 1, in reference to one of `top`
__device__ __forceinline__ void write_drawn(Drawn drawn, float top, float total, int64_t* id,
                                            float* logp) {
  const bool valid = total > 0 && total < INFINITY;  // neither where there is a NaN
  *id = valid ? drawn.id : 0;
  *logp = valid ? drawn.logit - top - logf(total) : NAN;
}

// The logits in order, by 32-bit integers; what would be NaN below them is -inf.
__device__ __forceinline__ float logit_at(unsigned place) {
  place = max(place, 0x007fffffu);
  return __uint_as_float(place >> 31 ? place ^ 0x80000000u : ~place);
}

// Logit: float(int k), the same in all lanes' hands. Everything here is for whole warps.
template <typename Logit>
struct SampleRow {
  const Logit& logit;
  const int K;
  const SampleSettings& how;
  const int lane = threadIdx.x % WARP;
  float top = LOWEST, total = 0;
  float bound = -INFINITY;
  int n_equal = 0;

  // The sum over all codes of what `of` makes of a logit.
  template <typename Number, typename Of>
  __device__ Number sum(const Of& of) const {
    Number part = 0;
    for (int k = lane; k < K; k += WARP) part += of(logit(k));
    return over_lanes(part, Sum());
  }

  // How many codes have `least` and more than `floor`.
  __device__ int n_from(float least, float floor) const {
    return sum<int>([&](float l) { return l >= least && l > floor; });
  }
  // What they weigh. In float64: many that tie would add up to one too many or too few.
  __device__ double weight_from(float least, float floor) const {
    return sum<double>(
        [&](float l) { return l >= least && l > floor ? weight_of(l - top, how) : 0.0f; });
  }

  __device__ void keep_top_k() {
    unsigned place = 0;
    for (unsigned bit = 1u << 31; bit; bit >>= 1) {
      const float least = logit_at(place | bit);
      const int n = n_from(least, -INFINITY);
      if (n == how.top_k && least != 0) {  // which of them is last does not matter; -0 is below 0
        bound = logit_at((place | bit) - 1);
        return;
      }
      if (n >= how.top_k) place |= bit;
    }
    bound = logit_at(place);
    n_equal = how.top_k - n_from(bound, bound);
  }

  // A code stays if what is likelier, or as likely and before it, weighs less than enough.
  __device__ void keep_top_p() {
    const float floor = bound;
    const double at_floor = (double)n_equal * weight_of(floor - top, how);
    const double enough = how.top_p * (weight_from(floor, floor) + at_floor);
    unsigned place = 0;
    for (unsigned bit = 1u << 31; bit; bit >>= 1) {
      const float least = logit_at(place | bit);
      const double weight = weight_from(least, floor) + (least <= floor ? at_floor : 0);
      if (weight >= enough) place |= bit;
    }
    bound = logit_at(place);
    const double rest = enough - weight_from(bound, bound);
    const double n = ceil(rest / weight_of(bound - top, how));  // NaN where nothing weighs anything
    n_equal = bound == floor && n_equal < n ? n_equal : n < K ? (int)n : K;
  }

  // The weight of this lane's code after the cut. seen: how many codes before were at the bound.
  __device__ float kept_weight(float l, int& seen) const {
    const unsigned equals = __ballot_sync(ALL_LANES, l == bound);
    const int rank = seen + __popc(equals & ((1u << lane) - 1));
    seen += __popc(equals);
    const bool kept = l > bound || (l == bound && rank < n_equal);
    return kept ? weight_of(l - top, how) : 0.0f;
  }

  __device__ float logit_or_none(int k) const { return k < K ? logit(k) : -INFINITY; }

  __device__ Drawn first_at_top() const {
    for (int k = lane;; k += WARP) {
      const unsigned hits = __ballot_sync(ALL_LANES, logit_or_none(k) == top);
      if (hits || k - lane >= K) return {k - lane + __ffs((int)hits) - 1, top};
    }
  }

  // The codes in 32 stretches, each the sum of its weights: one in each lane.
  __device__ Drawn draw(double u) const {
    const int steps = (int)ceil_div(K, WARP * WARP);  // of 32 codes, in a stretch
    float weight = 0;
    int seen = 0, seen_before = 0;
    for (int stretch = 0; stretch * steps * WARP < K; ++stretch) {
      const int before = seen;
      float part = 0;
      for (int i = 0; i < steps; ++i)
        part += kept_weight(logit_or_none((stretch * steps + i) * WARP + lane), seen);
      part = over_lanes(part, Sum());
      if (lane == stretch) weight = part, seen_before = before;
    }
    const double cumulative = up_to_lane((double)weight);
    double rest = u * __shfl_sync(ALL_LANES, cumulative, WARP - 1);
    const int stretch = first_or_last(cumulative > rest, weight > 0);
    rest -= __shfl_sync(ALL_LANES, cumulative - weight, stretch);
    seen = __shfl_sync(ALL_LANES, seen_before, stretch);

    Drawn drawn = {0, -INFINITY};
    for (int i = 0; i < steps; ++i) {
      const int k = (stretch * steps + i) * WARP;
      const float l = logit_or_none(k + lane), w = kept_weight(l, seen);
      const double sums = up_to_lane((double)w);
      if (!__any_sync(ALL_LANES, w > 0)) continue;
      const int hit = first_or_last(sums > rest && w > 0, w > 0);
      drawn = {k + hit, __shfl_sync(ALL_LANES, l, hit)};
      if (__any_sync(ALL_LANES, sums > rest)) break;
      rest -= __shfl_sync(ALL_LANES, sums, WARP - 1);
    }
    return drawn;
  }

  __device__ double up_to_lane(double x) const {
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
      const double lower = __shfl_up_sync(ALL_LANES, x, step);
      if (lane >= step) x += lower;
    }
    return x;
  }

  // The first lane that is a hit; where rounding left none, the last with any weight.
  __device__ int first_or_last(bool hit, bool any) const {
    const unsigned hits = __ballot_sync(ALL_LANES, hit), some = __ballot_sync(ALL_LANES, any);
    return hits ? __ffs((int)hits) - 1 : some ? WARP - 1 - __clz((int)some) : 0;
  }

  __device__ Drawn run(double u) {
    for (int k = lane; k < K; k += WARP) top = fmaxf(top, logit(k));
    top = over_lanes(top, Max());
    total = sum<float>([&](float l) { return weight_uncut(l - top); });
    if (how.greedy) return first_at_top();
    if (how.top_k) keep_top_k();
    if (how.top_p < 1) keep_top_p();
    return draw(u);
  }
};

}  // namespace tsgen::cuda
