// Where a CTA of the kernels for narrow layers has what, which rows are a warp's, and the order in
// which weights come.
#pragma once

#include "cuda/block.cuh"
#include "cuda/machine/panels.cuh"

namespace tsgen::cuda {

constexpr int TILE = 16, WIDTH = NARROW,
              STEPS = WIDTH / 16;  // rows of a warp, their width, k steps
constexpr int BODY_WARPS = 8, NARROW_WARPS = BODY_WARPS + 1, NARROW_THREADS = NARROW_WARPS * WARP;
constexpr int BODY = BODY_WARPS * TILE, NARROW_ROWS = NARROW_WARPS * TILE;

// What a CTA has: the last warp's rows are the first tokens of all sequences, the other warps'
// those behind them, so that sequences of 2^n + 1 tokens fill warps.
struct NarrowRoom {
  int G, key_rows;     // sequences; rows of each one's keys
  int depth;           // of a panel
  int k, v, a, at, x;  // in bytes, behind the panels
  int n_bytes;
};

// Of 16 keys: how many blocks a sequence has, of those that attend() is compiled for.
__host__ __device__ inline int key_blocks(int T) {
  const int n = T / 16 + 1;  // and the null key
  return n <= 3 ? n : 5;
}

// Sequences that a CTA has warps for.
inline int most_narrow(int T) { return T == 1 ? TILE : min(TILE, BODY / (T - 1)); }

inline NarrowRoom narrow_room(const BlockSizes& z, int G) {
  NarrowRoom room;
  room.G = G;
  room.key_rows = 16 * key_blocks(z.T);
  const int deepest = max(max(z.D, z.H * z.Dh), z.F), keys = 128 * G * room.key_rows;
  room.depth = round_up(deepest, 64);
  room.k = ring_bytes(room.depth);
  room.v = room.k + keys;
  room.a = room.v + keys;
  room.at = room.a + 2 * NARROW_ROWS * round_up(z.D, 64);
  room.x = room.at + 3 * 4 * NARROW_ROWS;
  room.n_bytes = room.x + 4 * G * z.T * z.D;
  return room;
}

// Rows of a warp: `first` and those behind it of n, as many of each sequence in turn.
struct Owned {
  int first, n, each;

  __device__ bool there(int i) const { return first + i < n; }
  __device__ int sequence(int i) const { return (first + i) / each; }
  __device__ int among(int i) const { return (first + i) % each; }  // those of its sequence
};

// The panels of layer weights in the order in which layer() takes them.
template <typename T>
struct LayerPanels {
  const BlockSizes& z;

  __host__ __device__ static int of_width(int n) { return (n + PANEL_ROWS - 1) / PANEL_ROWS; }
  __host__ __device__ int count() const { return 3 * z.H + 2 * of_width(z.D) + of_width(z.F); }

  // Panel i of n rows.
  __device__ static PanelSource<T> part(const T* rows, int i, int n, int K, int stride) {
    const int first = i * PANEL_ROWS;
    return {rows + (int64_t)first * stride, stride, min(n - first, PANEL_ROWS), K};
  }

  __device__ PanelSource<T> at(const BlockWeights<T>& w, int i) const {
    const int inner = z.H * z.Dh;
    if (i < 3 * z.H) {  // of each head: queries, keys, values
      const int first = (i % 3 * z.H + i / 3) * z.Dh;
      return {w.qkv + (int64_t)first * z.D, z.D, z.Dh, z.D};
    }
    i -= 3 * z.H;
    if (i < of_width(z.D)) return part(w.out, i, z.D, inner, inner);
    i -= of_width(z.D);
    if (i < of_width(z.F)) return part(w.up, i, z.F, z.D, z.D);
    return part(w.down, i - of_width(z.F), z.D, z.F, z.down_stride);
  }
};

// The panels of a table, in order.
template <typename T>
struct TablePanels {
  const PanelSource<T>* table;
  int n, i = 0;

  __device__ PanelSource<T> next() { return i < n ? table[i++] : PanelSource<T>{}; }
};

// A warp's rows, and where NarrowTile::at says of each where it is in x.
struct Places {
  Owned rows;
  int at;
};

}  // namespace tsgen::cuda
