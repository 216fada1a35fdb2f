// How many rows each code has, and their sums, in an order that the ids alone decide.
//
// A counting sort puts rows in order by code, each code's by number: every chunk of rows counts its
// codes, sums over the chunks before say where its rows go. The sorted rows are then summed in
// windows of a fixed length; a code that reaches over several has its parts added in their order.
#pragma once

#include "cuda/codes.cuh"

namespace tsgen::cuda {
namespace {

constexpr int SORT_THREADS = 256;
constexpr int64_t WINDOW = 256;  // sorted rows

struct Sorting {
  unsigned long long* counters;  // (n_chunks, K): rows of a code, then those in chunks before
  int64_t* starts;               // (K + 1), where a code's rows begin
  int64_t* order;                // (N) rows
  float* parts;                  // (n_windows, 2, D), see sum_windows_kernel
  int64_t n_chunks, n_windows;
  int log_chunk;  // a chunk has 2^log_chunk rows
};

__global__ void __launch_bounds__(SORT_THREADS)
    clear_counters_kernel(unsigned long long* counters, int64_t n) {
  const int64_t i = (int64_t)blockIdx.x * SORT_THREADS + threadIdx.x;
  if (i < n) counters[i] = 0;
}

__global__ void __launch_bounds__(SORT_THREADS)
    count_codes_kernel(const int64_t* ids, const float* distance, Sorting sorting, int64_t N,
                       int64_t K) {
  const int64_t n = (int64_t)blockIdx.x * SORT_THREADS + threadIdx.x;
  if (n < N && distance[n] == distance[n])
    atomicAdd(sorting.counters + (n >> sorting.log_chunk) * K + ids[n], 1ull);
}

// The sum of the values of the lanes before.
__device__ __forceinline__ int64_t before_lane(int64_t value) {
  const int lane = threadIdx.x % WARP;
  int64_t sum = value;
#pragma unroll
  for (int step = 1; step < WARP; step *= 2) {
    const int64_t other = __shfl_up_sync(ALL_LANES, sum, step);
    if (lane >= step) sum += other;
  }
  return sum - value;
}

// A warp a code.
__global__ void __launch_bounds__(SORT_THREADS)
    add_chunks_kernel(Sorting sorting, int64_t* counts, int64_t K) {
  const int64_t k = ((int64_t)blockIdx.x * SORT_THREADS + threadIdx.x) / WARP;
  const int lane = threadIdx.x % WARP;
  int64_t total = 0;
  for (int64_t first = 0; first < sorting.n_chunks; first += WARP) {
    const bool there = k < K && first + lane < sorting.n_chunks;
    unsigned long long* const at = sorting.counters + (first + lane) * K + k;
    const int64_t count = there ? (int64_t)*at : 0, before = before_lane(count);
    if (there) *at = (unsigned long long)(total + before);
    total += __shfl_sync(ALL_LANES, before + count, WARP - 1);
  }
  if (k < K && lane == 0) counts[k] = total;
}

// One block.
__global__ void __launch_bounds__(SORT_THREADS)
    add_codes_kernel(const int64_t* counts, int64_t* starts, int64_t K) {
  __shared__ int64_t room[SORT_THREADS / WARP];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  int64_t total = 0;
  for (int64_t first = 0; first < K; first += SORT_THREADS) {
    const int64_t k = first + threadIdx.x, count = k < K ? counts[k] : 0;
    int64_t before = before_lane(count);
    __syncthreads();  // the last to use `room` have read it
    if (lane == WARP - 1) room[warp] = before + count;
    __syncthreads();
    int64_t all = 0;
    for (int i = 0; i < SORT_THREADS / WARP; ++i) {
      if (i == warp) before += all;
      all += room[i];
    }
    if (k < K) starts[k] = total + before;
    total += all;
  }
  if (threadIdx.x == 0) starts[K] = total;
}

// A warp a chunk, in turn: the rows of one code that it meets at once keep their order.
__global__ void __launch_bounds__(SORT_THREADS)
    place_rows_kernel(const int64_t* ids, const float* distance, Sorting sorting, int64_t N,
                      int64_t K) {
  const int lane = threadIdx.x % WARP;
  const int64_t chunk = ((int64_t)blockIdx.x * SORT_THREADS + threadIdx.x) / WARP;
  const int64_t begin = min(N, chunk << sorting.log_chunk);
  const int64_t end = min(N, (chunk + 1) << sorting.log_chunk);
  const auto code_of = [&](int64_t n) {
    return n < end && distance[n] == distance[n] ? (int)ids[n] : -1;
  };
  int next = code_of(begin + lane);
  for (int64_t first = begin; first < end; first += WARP) {
    const int k = next;
    next = code_of(first + WARP + lane);
    const unsigned same = __match_any_sync(ALL_LANES, k);
    const int rank = __popc(same & ((1u << lane) - 1));
    unsigned long long* const counter = sorting.counters + chunk * K + k;
    const unsigned long long before = k >= 0 ? *counter : 0;
    __syncwarp();  // all have read it
    if (k >= 0) {
      sorting.order[sorting.starts[k] + (int64_t)before + rank] = first + lane;
      if (rank == 0) *counter = before + __popc(same);
    }
    __syncwarp();
  }
}

// The code that sorted row p has: the last that begins at p or before.
__device__ __forceinline__ int64_t code_at(const int64_t* starts, int64_t p, int64_t K) {
  int64_t k = 0;
  for (int64_t end = K; end - k > 1;) {
    const int64_t middle = (k + end) / 2;
    if (starts[middle] <= p)
      k = middle;
    else
      end = middle;
  }
  return k;
}

// 2^log_lanes threads sum the rows of a window, 4 numbers each. The sum of a code that has all its
// rows there is final; parts[w] are those of the one that began before and of the one that goes on.
template <typename T>
__global__ void __launch_bounds__(SORT_THREADS)
    sum_windows_kernel(const T* x, Sorting sorting, float* sums, int64_t K, int64_t D,
                       int log_lanes, bool packed) {
  const int64_t group = ((int64_t)blockIdx.x * SORT_THREADS + threadIdx.x) >> log_lanes;
  const int64_t w = group % sorting.n_windows, pass = group / sorting.n_windows;
  const int64_t d = 4 * ((pass << log_lanes) + (threadIdx.x & ((1 << log_lanes) - 1)));
  const int64_t begin = w * WINDOW, end = min(begin + WINDOW, sorting.starts[K]);
  if (d >= D) return;
  for (int64_t p = begin; p < end;) {
    const int64_t k = code_at(sorting.starts, p, K);
    const int64_t first = sorting.starts[k], next = sorting.starts[k + 1], last = min(next, end);
    float sum[4] = {};
#pragma unroll 8
    for (; p < last; ++p) {
      const Pack<T, 4> row = load_4(x + sorting.order[p] * D, d, D, packed);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] += load(row.at[i]);
    }
    const bool whole = first >= begin && next <= begin + WINDOW;
    float* const to = whole ? sums + k * D : sorting.parts + (2 * w + (first >= begin)) * D;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (d + i < D) to[d + i] = sum[i];
  }
}

// The sums that sum_windows_kernel has not finished.
__global__ void __launch_bounds__(SORT_THREADS)
    add_windows_kernel(Sorting sorting, float* sums, int64_t K, int64_t D) {
  const int64_t i = (int64_t)blockIdx.x * SORT_THREADS + threadIdx.x;
  if (i >= K * D) return;
  const int64_t k = i / D, d = i % D;
  const int64_t first = sorting.starts[k], next = sorting.starts[k + 1];
  const int64_t begin = first / WINDOW, end = first < next ? (next - 1) / WINDOW : begin;
  if (first < next && begin == end) return;
  float sum = first < next ? sorting.parts[(2 * begin + 1) * D + d] : 0;
#pragma unroll 8
  for (int64_t w = begin + 1; w <= end; ++w) sum += sorting.parts[2 * w * D + d];
  sums[i] = sum;
}

}  // namespace
}  // namespace tsgen::cuda
