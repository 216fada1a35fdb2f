// Products with weights that come through shared memory: panels of 64 rows, copied while the panels
// before them are used, and read by all warps.
#pragma once

#include "cuda/machine/functions.cuh"
#include "cuda/machine/matrix.cuh"

namespace tsgen::cuda {

constexpr int PANEL_ROWS = 64, MOST_DEPTH = 128;  // a panel's outputs, and their inputs
constexpr int PANELS = 4, PANEL_THREADS = 256;    // of a ring; those that copy

// Rows of up to 64 numbers of 16 bits, 128 bytes each, whose pieces of 16 bytes are exchanged by
// the row: eight rows' pieces of the same columns are in all banks.
template <typename T>
struct Slab {
  T* base;

  __device__ T* at(int row, int k) const { return base + row * 64 + (k ^ (row & 7) << 3); }
};

// Wider rows: their first 64 numbers, then their next.
template <typename T>
struct Slabs {
  T* base;
  int n_rows;

  __device__ Slab<T> slab(int i) const { return {base + i * n_rows * 64}; }
  __device__ T* at(int row, int k) const { return slab(k / 64).at(row, k % 64); }
};

// Some rows of a weight: n of PANEL_ROWS at most, of K numbers each, aligned to 16 bytes.
template <typename T>
struct PanelSource {
  const T* rows;
  int stride, n, K;
};

// PANELS panels of shared memory in turn, of what `sources.next()` says, which is called in order
// and has to know an end: sources of no rows. All threads of a block take part in all calls; the
// first PANEL_THREADS copy.
template <typename T, typename Sources>
struct PanelRing {
  T* room;
  int depth;  // of a panel, a multiple of 64
  Sources sources;
  int taken = 0;  // modulo PANELS

  __device__ PanelRing(T* where, int deepest, const Sources& first)
      : room(where), depth(deepest), sources(first) {}

  __device__ void start() {
    for (int i = 0; i < PANELS - 1; ++i) begin(i, sources.next());
  }

  // The next panel. It is there for all threads, and nothing of the last one is needed any more.
  __device__ __forceinline__ Slabs<T> take() {
    wait_for_copies<PANELS - 2>();
    __syncthreads();
    begin((taken + PANELS - 1) % PANELS, sources.next());
    const int now = taken;
    taken = (taken + 1) % PANELS;
    return panel(now);
  }

  __device__ Slabs<T> panel(int i) const { return {room + i * (PANEL_ROWS * depth), PANEL_ROWS}; }

  // Before the kernel ends.
  __device__ void stop() const { wait_for_copies<0>(); }

  // Begins to copy to panel i.
  __device__ __forceinline__ void begin(int i, const PanelSource<T>& source) {
    if (threadIdx.x < PANEL_THREADS) {
      if (source.n == PANEL_ROWS && source.K == MOST_DEPTH)
        copy_whole(panel(i), source);
      else
        copy_part(panel(i), source);
    }
    end_copies();
  }

  // All that a panel holds, each thread a piece of every 16th row.
  __device__ __forceinline__ static void copy_whole(const Slabs<T>& to,
                                                    const PanelSource<T>& source) {
    constexpr int pieces = MOST_DEPTH / 8, at_once = PANEL_THREADS / pieces;
    const unsigned thread = thread_now();
    const int row = thread / pieces, k = thread % pieces * 8;
    const T* from = source.rows + (row * source.stride + k);
    T* const place = to.at(row, k);
#pragma unroll
    for (int u = 0; u < PANEL_ROWS / at_once; ++u, from += at_once * source.stride)
      copy_16(place + u * at_once * 64, from);
  }

  // Less, with zeros behind it up to 32 rows and 64 columns.
  __device__ __forceinline__ static void copy_part(const Slabs<T>& to,
                                                   const PanelSource<T>& source) {
    const int shift = source.K > 64 ? 4 : 3;  // of the number of pieces of a row
    const int thread = thread_now(), end = round_up(source.n, 32);
    const int k = (thread & ((1 << shift) - 1)) * 8;
    const int n_bytes = 2 * max(0, min(8, source.K - k));
#pragma unroll 1
    for (int row = thread >> shift; row < end; row += PANEL_THREADS >> shift) {
      const bool there = row < source.n && n_bytes > 0;
      copy_up_to_16(to.at(row, k), source.rows + (there ? row * source.stride + k : 0),
                    there ? n_bytes : 0);
    }
  }
};

constexpr int ring_bytes(int depth) { return PANELS * PANEL_ROWS * depth * 2; }

// Fragments of 16 rows, `row` that of this lane: lanes 0 to 15 give the rows, and the others again.
template <typename T, int steps>
__device__ __forceinline__ void load_rows(FragmentA (&a)[steps], const Slabs<T>& rows, int row,
                                          int K) {
#pragma unroll
  for (int s = 0; s < steps; ++s) {
    a[s] = {};
    if (16 * s < K)
      load_matrices<false>(a[s].word,
                           rows.slab(s / 4).at(row, s % 4 * 16 + thread_now() % WARP / 16 * 8));
  }
}

// c (16, 64) += a (16, K) times n of the panel's rows, transposed; in blocks of 32 columns and 64
// of K, behind which a and the panel are zero.
template <typename T, int steps>
__device__ __forceinline__ void multiply(FragmentC* c, const FragmentA (&a)[steps],
                                         const Slabs<T>& panel, int n, int K) {
  const int lane = thread_now() % WARP;
  const int row = lane / 16 * 8 + lane % 8, k = lane / 8 % 2 * 8;
  const T* at[4];  // of the steps of a slab; rows and slabs are whole numbers of bytes behind
#pragma unroll
  for (int s = 0; s < 4; ++s) at[s] = Slab<T>{panel.base}.at(row, 16 * s + k);
#pragma unroll
  for (int s0 = 0; s0 < steps; s0 += 4) {
    if (16 * s0 >= K) break;
#pragma unroll
    for (int j0 = 0; j0 < 8; j0 += 4) {
      if (8 * j0 >= n) break;
#pragma unroll
      for (int s = 0; s < 4; ++s)
#pragma unroll
        for (int j = j0; j < j0 + 4; j += 2) {
          uint32_t b[4];
          load_matrices<false>(b, at[s] + (s0 / 4 * PANEL_ROWS + 8 * j) * 64);
          multiply_add<T>(c[j], a[s0 + s], {{b[0], b[1]}});
          multiply_add<T>(c[j + 1], a[s0 + s], {{b[2], b[3]}});
        }
    }
  }
}

}  // namespace tsgen::cuda
