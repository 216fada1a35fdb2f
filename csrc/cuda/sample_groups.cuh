// The draw of a block of rows with a head, in two levels: a group of codes, then the code in it.
#pragma once

#include "cuda/head_tiles.cuh"
#include "cuda/sample_row.cuh"

namespace tsgen::cuda {

constexpr int MOST_GROUPS = 64;  // of the codes
// Sums are scaled down when a logit exceeds their reference, the thread's first ones, by this much
// over the temperature, which happens to few.
constexpr float SLACK = 20;

// What a block knows of its rows once it has seen all codes.
template <typename Tiles>
struct RowsRoom {
  static constexpr int PITCH = MOST_GROUPS + 4;  // 8 rows by 4 numbers lie in different banks
  union {
    typename Tiles::Shared tiles;
    float few[Tiles::ROWS / WARP][WARP][Tiles::CODES + 1];
  };
  float sums[Tiles::ROWS][PITCH];  // of the weights of each group, in reference to `top`
  double rest[Tiles::ROWS];        // u, then what is left of u times their sum in the group
  float top[Tiles::ROWS], total[Tiles::ROWS];
  int group[Tiles::ROWS], order[Tiles::ROWS];
  int n_before[MOST_GROUPS];  // rows of lower groups
};

// log2 of a weight at temperature 1, in reference to 2^top. One rounding, of what is small.
__device__ __forceinline__ float log_weight(float logit, float top) {
  return fmaf(logit, LOG2_E, -top);
}

// Sums of weights, as a thread of Tiles gets to see the logits.
template <typename Tiles>
struct Sums {
  static constexpr int N = Tiles::ROWS_OF_THREAD;
  const Head<typename Tiles::T>& head;
  const SampleSettings& how;
  RowsRoom<Tiles>& room;
  // Of each row: 2^top is the reference, which a logit above `limit` moves; the largest one's group
  float top[N] = {}, limit[N] = {};
  int best[N] = {};
  float total[N] = {}, part[N] = {};  // weights at temperature 1; those in the draw of the group

  __device__ __forceinline__ void begin() {
#pragma unroll
    for (int i = 0; i < N; ++i) top[i] = limit[i] = LOWEST;
  }

  __device__ __forceinline__ void take(int group, int part_of_group, typename Tiles::Logits& c) {
    float highest[N];
    bool higher = false;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      highest[i] = limit[i];
#pragma unroll
      for (int j = 0; j < Tiles::CODES; ++j) highest[i] = fmaxf(highest[i], Tiles::logit(c, i, j));
      higher |= highest[i] > limit[i];
    }
    if (higher) raise(highest, group);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float uncut = 0;
#pragma unroll
      for (int j = 0; j < Tiles::CODES; ++j)
        uncut += exp2_fast(log_weight(Tiles::logit(c, i, j), top[i]));
      total[i] += uncut;
      if (how.same) part[i] += uncut;
    }
    if (!how.same) {
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < Tiles::CODES; ++j)
          part[i] += exp2_fast(log_weight(Tiles::logit(c, i, j), top[i]) * how.inverse);
    }
    if (part_of_group < head.parts - 1) return;
#pragma unroll
    for (int i = 0; i < N; ++i) room.sums[Tiles::row_of(i)][group] = part[i], part[i] = 0;
  }

  __device__ __forceinline__ void raise(const float (&highest)[N], int group) {
    const float slack = how.greedy ? 0 : SLACK / fmaxf(1, how.inverse);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (!(highest[i] > limit[i])) continue;
      refer_to(highest[i] * LOG2_E, i, group / Tiles::LANES);
      limit[i] = highest[i] + slack, best[i] = group;
    }
  }

  // Scales row i's sums, among them those of n groups that are done.
  __device__ __forceinline__ void refer_to(float higher, int i, int n) {
    const float factor = exp2_fast((top[i] - higher) * how.inverse);
    total[i] *= exp2_fast(top[i] - higher);
    part[i] *= factor;
    top[i] = higher;
    float* const sums = room.sums[Tiles::row_of(i)] + Tiles::lane_of_row();
    for (int j = 0; j < n; ++j) sums[j * Tiles::LANES] *= factor;
  }

  // All threads of a row refer to its largest logit.
  __device__ __forceinline__ void end(int n) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float row_limit = over_lanes<Tiles::LANES>(limit[i], Max());
      const int mine = limit[i] == row_limit ? best[i] : MOST_GROUPS;
      const int group = over_lanes<Tiles::LANES>(mine, [](int a, int b) { return min(a, b); });
      refer_to(over_lanes<Tiles::LANES>(top[i], Max()), i, n);
      const float row_total = over_lanes<Tiles::LANES>(total[i], Sum());
      const int r = Tiles::row_of(i);
      if (Tiles::lane_of_row() == 0)
        room.top[r] = top[i], room.total[r] = row_total, room.group[r] = group;
    }
  }
};

// The group that u falls into, and what is left of u times the sum of all in it.
template <typename Tiles>
__device__ __forceinline__ void choose_group(RowsRoom<Tiles>& room, int r, int n_groups) {
  const auto four = [&](int i) { return *(const float4*)&room.sums[r][4 * i]; };
  double whole = 0;
  for (int i = 0; i < n_groups / 4; ++i) {
    const float4 w = four(i);
    whole += (w.x + w.y) + (w.z + w.w);
  }
  double rest = room.rest[r] * whole, rest_of_last = 0;
  int last = 0;  // with any weight
  for (int i = 0; i < n_groups / 4; ++i) {
    const float4 w = four(i);
    const float sum = (w.x + w.y) + (w.z + w.w);
    if (sum > 0) last = i, rest_of_last = rest;
    if (sum > rest) break;
    rest -= sum;
  }
  const float4 w = four(last);
  const float sums[4] = {w.x, w.y, w.z, w.w};
  bool found = false;
  rest = rest_of_last;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (found) continue;
    if (sums[j] > 0) room.group[r] = 4 * last + j, room.rest[r] = rest;
    found = sums[j] > rest;
    rest -= sums[j];
  }
}

// The rows of a block in the order of their groups, so that few are looked at for 8 rows.
template <typename Tiles>
__device__ __forceinline__ void order_by_group(RowsRoom<Tiles>& room) {
  const int t = threadIdx.x;
  if (t < MOST_GROUPS) room.n_before[t] = 0;
  __syncthreads();
  const int group = t < Tiles::ROWS ? room.group[t] : 0;
  const int place = t < Tiles::ROWS ? atomicAdd(&room.n_before[group], 1) : 0;
  __syncthreads();
  int before = 0;
  for (int g = 0; g < group; ++g) before += room.n_before[g];
  if (t < Tiles::ROWS) room.order[before + place] = t;
  __syncthreads();
}

// The code in its group, for 32 rows of a warp: lane r has row r.
template <typename Tiles>
__device__ __forceinline__ Drawn find(const Head<typename Tiles::T>& head,
                                      const SampleSettings& how, RowsRoom<Tiles>& room, int64_t row,
                                      int r) {
  const int lane = threadIdx.x % WARP, group = room.group[r];
  float (*const logits)[Tiles::CODES + 1] = room.few[threadIdx.x / WARP];
  const float top = room.top[r];
  double rest = room.rest[r];
  bool found = false;
  Drawn drawn = {-1, -INFINITY};  // none yet
  for (int part = 0; part < head.parts; ++part) {
    for (int first = 0; first < WARP; first += 8) {
      const int64_t row_of_lane = __shfl_sync(ALL_LANES, row, first + lane / 4);
      for (unsigned left = 0xff; left;) {  // rows
        Some some;
#pragma unroll
        for (int n = 0; n < FEW; ++n) {
          const int of = first + (left ? __ffs((int)left) - 1 : 0);
          const int now = __shfl_sync(ALL_LANES, group, of);
          some.k[n] = (now * head.parts + part) * Tiles::CODES;
          some.out[n] = logits[first];
          some.wanted[n] = __ballot_sync(ALL_LANES, group == now) >> first & left;
          left &= ~some.wanted[n];
        }
        FewCodes<typename Tiles::T>::few(head, row_of_lane, some, Tiles::CODES + 1);
      }
    }
    __syncwarp();
    for (int j = 0; j < Tiles::CODES; ++j) {
      const float l = logits[lane][j];
      const int k = (group * head.parts + part) * Tiles::CODES + j;
      if (how.greedy) {
        if (l > drawn.logit || drawn.id < 0) drawn = {k, l};
        continue;
      }
      const float w = exp2_fast(log_weight(l, top) * how.inverse);
      // where rounding leaves something, the last one with any weight
      if (!found && (w > 0 || drawn.id < 0)) drawn = {k, l};
      found |= w > rest;
      rest -= w;
    }
    __syncwarp();
  }
  return drawn;
}

}  // namespace tsgen::cuda
