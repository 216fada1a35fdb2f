// One draw from every row of logits, which stay on the chip.
//
// With a head a block sums up the weights of groups of codes, in registers. Then u of each row
// tells in which group its code is, and the logits of that group alone are computed again. Where
// top_k or top_p cut, rows are looked at often: few of them at a time, all logits in shared memory.
#include "cuda/sample_groups.cuh"
#include "ops_cuda.h"

namespace tsgen::cuda {
namespace {

constexpr float SMALLEST = 1.2e-38f;  // of 1 / temperature, and of a temperature: normal in float32
constexpr int ROOM = 96 * 1024;       // bytes of logits in shared memory
constexpr int64_t FEW_ROWS = 16384;   // do not fill a GPU, 256 in a block
constexpr int THREADS = 256, WARPS = THREADS / WARP;

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

template <typename Tiles>
__global__ void __launch_bounds__(Tiles::THREADS, 1)
    head_kernel(Head<typename Tiles::T> head, Draw to) {
  RowsRoom<Tiles>& room = shared<RowsRoom<Tiles>>();
  static_assert(Tiles::ROWS % WARP == 0 && Tiles::ROWS <= Tiles::THREADS);
  const int64_t first = (int64_t)blockIdx.x * Tiles::ROWS;
  const int t = threadIdx.x, n = (int)ceil_div(head.K, Tiles::TILE * head.parts);  // its groups
  const bool is_row = t < Tiles::ROWS && first + t < head.R;
  if (is_row) room.rest[t] = to.u[first + t];
  Sums<Tiles> sums{head, to.how, room};
  sums.begin();
  Tiles::each(head, first, room.tiles,
              [&](int group, int part, auto& c) { sums.take(group, part, c); });
  sums.end(n);
  __syncthreads();
  if (is_row && !to.how.greedy) choose_group(room, t, n * Tiles::LANES);
  order_by_group(room);
  if (t >= Tiles::ROWS) return;
  const int r = room.order[t];
  const int64_t row = first + r < head.R ? first + r : -1;
  const Drawn drawn = find(head, to.how, room, row, r);
  if (row >= 0) write_drawn(drawn, room.top[r] * LN_2, room.total[r], to.ids + row, to.logp + row);
}

template <typename T>
void with_cut(const Launch& on, const Head<T>& head, const Draw& to) {
  const int64_t pitch = ceil_div(head.K, FewCodes<T>::CODES) * FewCodes<T>::CODES + 1;
  const int64_t row_bytes = pitch * (int64_t)sizeof(float);
  const int64_t n_rows = min((int64_t)WARPS, ROOM / row_bytes);
  if (n_rows == 0)
    return launch(on, row_kernel<T, true>, ceil_div(head.R, WARPS), THREADS, 0, head, to);
  launch(on, kept_kernel<T>, ceil_div(head.R, n_rows), THREADS, n_rows * row_bytes, head, to,
         (int)n_rows, (int)pitch);
}

template <typename Tiles>
void by_tiles(const Launch& on, Head<typename Tiles::T> head, const Draw& to) {
  head.parts = (int)ceil_div(head.K, Tiles::CODES * MOST_GROUPS);
  launch(on, head_kernel<Tiles>, ceil_div(head.R, Tiles::ROWS), Tiles::THREADS,
         sizeof(RowsRoom<Tiles>), head, to);
}

template <typename T>
void with_head(const Launch& on, const Head<T>& head, const Draw& to) {
  if (to.how.top_k || to.how.top_p < 1) return with_cut(on, head, to);
  const bool few = head.R <= FEW_ROWS;
  if constexpr (sizeof(T) == 4)
    return (few ? by_tiles<FloatTiles<2>> : by_tiles<FloatTiles<8>>)(on, head, to);
  else if (head.D > 128)
    return by_tiles<HalfTiles<T, 8, false, 2, 8>>(on, head, to);
  else if (few)
    return by_tiles<HalfTiles<T, 8, true, 1, 4>>(on, head, to);
  else if (head.D > 64)
    return by_tiles<HalfTiles<T, 8, true, 2, 8>>(on, head, to);
  else
    return by_tiles<HalfTiles<T, 4, true, 2, 8>>(on, head, to);
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
    with_head(on, head, to);
  });
}

}  // namespace tsgen::cuda
