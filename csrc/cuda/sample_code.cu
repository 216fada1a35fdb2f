// One draw from every row of logits, which stay on the chip.
//
// With a head a block sums up the weights of groups of codes, in registers. Then u of each row
// tells in which group its code is, and the logits of that group alone are computed again. Where
// top_k or top_p cut, rows are looked at often: few of them at a time, all logits in shared memory.
#include "cuda/head_tiles.cuh"
#include "cuda/sample_row.cuh"
#include "ops_cuda.h"

namespace tsgen::cuda {
namespace {

constexpr float SMALLEST = 1.2e-38f;  // of 1 / temperature, and of a temperature: normal in float32
constexpr int MOST_GROUPS = 64;       // of the codes, in a head
constexpr int ROOM = 96 * 1024;       // bytes of logits in shared memory
constexpr int THREADS = 256, WARPS = THREADS / WARP;
// Sums are scaled down when a logit exceeds their reference, the thread's first ones, by this much
// over the temperature, which happens to few.
constexpr float SLACK = 20;
constexpr float LN_2 = 0.693147181f;

struct Draw {
  const double* u;  // (R), and so the results
  int64_t* ids;
  float* logp;
  SampleSettings how;
};

// A warp takes a row: logits, or what a head makes them.
template <typename T, bool HEAD>
__global__ void __launch_bounds__(THREADS) row_kernel(Head<T> head, Draw to) {
  const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
  if (r >= head.R) return;
  const T* const row = HEAD ? head.row(r) : head.h + r * head.K;
  const auto logit = [&](int k) {
    if (!HEAD) return load(row[k]);
    float sum = 0;
    for (int d = 0; d < head.D; ++d) sum = fmaf(load(row[d]), load(head.code(k)[d]), sum);
    return sum + head.bias_of(k);
  };
  SampleRow<decltype(logit)> sampled{logit, head.K, to.how};
  const Drawn drawn = sampled.run(to.u[r]);
  if (threadIdx.x % WARP == 0)
    write_drawn(drawn, sampled.top, sampled.total, to.ids + r, to.logp + r);
}

// Logits of n_rows rows, up to 8, in shared memory; then a warp takes a row.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    kept_kernel(Head<T> head, Draw to, int n_rows, int pitch) {
  constexpr int CODES = FewCodes<T>::CODES;
  float* const logits = &shared<float>();  // (n_rows, pitch)
  const int warp = threadIdx.x / WARP, of_lane = threadIdx.x % WARP / 4;
  const int64_t first = (int64_t)blockIdx.x * n_rows;
  const int64_t row = of_lane < n_rows && first + of_lane < head.R ? first + of_lane : -1;
  for (int k = warp * CODES * FEW; k < head.K; k += WARPS * CODES * FEW) {
    Some some;
#pragma unroll
    for (int n = 0; n < FEW; ++n) {
      some.k[n] = k + n * CODES;
      some.out[n] = logits + some.k[n];
      some.wanted[n] = some.k[n] < head.K ? (1u << n_rows) - 1 : 0;
    }
    FewCodes<T>::few(head, row, some, pitch);
  }
  __syncthreads();
  const int64_t r = first + warp;
  if (warp >= n_rows || r >= head.R) return;
  const auto logit = [&](int k) { return logits[warp * pitch + k]; };
  SampleRow<decltype(logit)> sampled{logit, head.K, to.how};
  const Drawn drawn = sampled.run(to.u[r]);
  if (threadIdx.x % WARP == 0)
    write_drawn(drawn, sampled.top, sampled.total, to.ids + r, to.logp + r);
}

// What a block knows of its rows once it has seen all codes.
template <typename Tiles>
struct RowsRoom {
  static constexpr int PITCH = MOST_GROUPS + 4;  // 8 rows by 4 numbers lie in different banks
  union {
    typename Tiles::Shared tiles;
    float few[Tiles::THREADS / WARP][WARP][Tiles::CODES + 1];
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
  const int group = room.group[t];
  const int place = atomicAdd(&room.n_before[group], 1);
  __syncthreads();
  int before = 0;
  for (int g = 0; g < group; ++g) before += room.n_before[g];
  room.order[before + place] = t;
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
  Drawn drawn = {0, -INFINITY};
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
        if (l > drawn.logit) drawn = {k, l};
        continue;
      }
      const float w = exp2_fast(log_weight(l, top) * how.inverse);
      if (!found && w > 0) drawn = {k, l};  // the last one where rounding leaves something
      found |= w > rest;
      rest -= w;
    }
    __syncwarp();
  }
  return drawn;
}

template <typename Tiles>
__global__ void __launch_bounds__(Tiles::THREADS, 1)
    head_kernel(Head<typename Tiles::T> head, Draw to) {
  RowsRoom<Tiles>& room = shared<RowsRoom<Tiles>>();
  static_assert(Tiles::ROWS == Tiles::THREADS);
  const int64_t first = (int64_t)blockIdx.x * Tiles::ROWS;
  const int t = threadIdx.x, n = (int)ceil_div(head.K, Tiles::TILE * head.parts);  // its groups
  if (first + t < head.R) room.rest[t] = to.u[first + t];
  Sums<Tiles> sums{head, to.how, room};
  sums.begin();
  Tiles::each(head, first, room.tiles,
              [&](int group, int part, auto& c) { sums.take(group, part, c); });
  sums.end(n);
  __syncthreads();
  if (first + t >= head.R)
    room.group[t] = 0;
  else if (!to.how.greedy)
    choose_group(room, t, n * Tiles::LANES);
  order_by_group(room);
  const int r = room.order[t];
  const int64_t row = first + r < head.R ? first + r : -1;
  const Drawn drawn = find(head, to.how, room, row, r);
  if (row >= 0) write_drawn(drawn, room.top[r] * LN_2, room.total[r], to.ids + row, to.logp + row);
}

template <typename Tiles>
void with_head(const Launch& on, Head<typename Tiles::T> head, const Draw& to) {
  using T = typename Tiles::T;
  if (to.how.top_k || to.how.top_p < 1) {
    const int64_t pitch = ceil_div(head.K, Tiles::CODES) * Tiles::CODES + 1;
    const int64_t row_bytes = pitch * (int64_t)sizeof(float),
                  n_rows = min((int64_t)WARPS, ROOM / row_bytes);
    if (n_rows == 0)
      return launch(on, row_kernel<T, true>, ceil_div(head.R, WARPS), THREADS, 0, head, to);
    return launch(on, kept_kernel<T>, ceil_div(head.R, n_rows), THREADS, n_rows * row_bytes, head,
                  to, (int)n_rows, (int)pitch);
  }
  head.parts = (int)ceil_div(head.K, Tiles::CODES * MOST_GROUPS);
  launch(on, head_kernel<Tiles>, ceil_div(head.R, Tiles::ROWS), Tiles::THREADS,
         sizeof(RowsRoom<Tiles>), head, to);
}

}  // namespace

void sample_code(const Launch& on, const void* h, const double* u, const void* weight,
                 const float* bias, int64_t* ids, float* logp, int64_t R, int64_t D, int64_t K,
                 double temperature, int64_t top_k, double top_p) {
  if (R == 0) return;
  const bool greedy = temperature < SMALLEST;
  const float inverse = greedy ? 1 : max((float)(1 / temperature), SMALLEST);
  const SampleSettings how{inverse, top_k < K && !greedy ? (int)top_k : 0, greedy ? 1 : top_p,
                           greedy, greedy || temperature == 1};
  const Draw to{u, ids, logp, how};
  by_dtype(on.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Head<T> head{(const T*)h,
                       (const T*)weight,
                       bias,
                       R,
                       (int)K,
                       (int)D,
                       in_pieces<T>(D, {h, weight}),
                       bias && in_pieces<float>(0, {bias})};
    if (!weight && D == K)  // an empty weight is null, too
      return launch(on, row_kernel<T, false>, ceil_div(R, WARPS), THREADS, 0, head, to);
    if constexpr (sizeof(T) == 4)
      return with_head<FloatTiles>(on, head, to);
    else if (D <= 64)
      return with_head<HalfTiles<T, 4, true>>(on, head, to);
    else if (D <= 128)
      return with_head<HalfTiles<T, 8, true>>(on, head, to);
    else
      return with_head<HalfTiles<T, 8, false>>(on, head, to);
  });
}

}  // namespace tsgen::cuda
