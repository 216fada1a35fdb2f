// A transformer layer in which each warp has 16 rows and all their columns, for layers up to 128
// wide; block.cuh has the equations.
//
// What one product leaves in a warp's registers is what its next one takes, so that norms are sums
// over four lanes, and no warp waits for another but for weights, keys and values. x stays in
// shared memory, in float. Weights come in panels of 64 rows, see machine/panels.cuh: all barriers
// but one a head are theirs.
#pragma once

#include "cuda/narrow_attention.cuh"

namespace tsgen::cuda {

// full: D is WIDTH, which saves the question whether a column is there.
template <typename T, bool full>
struct NarrowTile {
  const BlockSizes& z;
  const NarrowRoom& room;
  NarrowAttention<T> attention;
  Slabs<T> a;  // what is multiplied, of each warp in its rows
  float* x;    // (G T, D)
  int* at;     // of each row where it is in x; of some rows, to be set; where the keys of all are
  static constexpr int OTHERS = NARROW_ROWS, KEYS = 2 * NARROW_ROWS;

  __device__ NarrowTile(char* shared, const BlockSizes& sizes, const NarrowRoom& where)
      : z(sizes),
        room(where),
        attention{sizes, where, {(T*)(shared + where.k)}, {(T*)(shared + where.v)}},
        a{(T*)(shared + where.a), NARROW_ROWS},
        x((float*)(shared + where.x)) {
    at = (int*)(shared + where.at);
    const Places all = places(0);
    const int r = threadIdx.x % TILE, g = all.rows.sequence(r);  // twice, by two lanes
    const int t = is_first() ? 0 : 1 + all.rows.among(r);
    at[all.at + r] = g * z.T + t, at[KEYS + all.at + r] = g * room.key_rows + t;
    __syncwarp();
  }

  // Whether this warp has the first tokens.
  __device__ static bool is_first() { return thread_now() / WARP == BODY_WARPS; }

  // This warp's rows: of some, `count` a sequence, or, 0, of all. Not kept, for that
  // would be registers.
  __device__ __forceinline__ Places places(int count) const {
    const int first = thread_now() / WARP * TILE;
    if (count > 0) return {{first, room.G * count, count}, OTHERS + first};
    if (is_first()) return {{0, room.G, 1}, first};
    return {{first, room.G * (z.T - 1), max(z.T - 1, 1)}, first};
  }

  __device__ int D() const { return full ? WIDTH : z.D; }
  // This lane's pairs of columns of row m in x: four rows of them are in all banks.
  struct Line {
    float* base;
    int twist;

    __device__ float2& at(int j) const {
      return *(float2*)(base + j / 4 * 32 + (j % 4 * 8 ^ twist));
    }
  };
  __device__ Line line(int m) const { return {x + m * D() + tile_pair(), twist(m)}; }
  __device__ int twist(int m) const { return D() % 32 == 0 ? (m & 3) << 3 : 0; }

  // do_it(i, what `at` says) of this lane's two rows, where they are there
  template <typename F>
  __device__ __forceinline__ void each_row(const Places& of, const F& do_it) const {
    const int r = tile_row();
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (of.rows.there(r + 8 * i)) do_it(i, at[of.at + r + 8 * i]);
  }

  // do_it(j, column) of this lane's pairs of columns of n
  template <int width, typename F>
  __device__ __forceinline__ static void each_pair(int n, const F& do_it) {
    const int first = tile_pair();
#pragma unroll
    for (int j = 0; j < width / 8; ++j)
      if (8 * j < n) do_it(j, 8 * j + first);
  }

  __device__ __forceinline__ void read(const Places& of, Wide& y) const {
    clear(y);
    each_row(of, [&](int i, int m) {
      const Line from = line(m);
#pragma unroll
      for (int j = 0; j < WIDTH / 8; ++j)
        if (8 * j < D()) y[j].at[2 * i] = from.at(j).x, y[j].at[2 * i + 1] = from.at(j).y;
    });
  }

  // x += y
  __device__ __forceinline__ void add(const Places& of, const Wide& y) const {
    each_row(of, [&](int i, int m) {
      const Line to = line(m);
#pragma unroll
      for (int j = 0; j < WIDTH / 8; ++j) {
        if (8 * j >= D()) continue;
        const float2 two = to.at(j);
        to.at(j) = {two.x + y[j].at[2 * i], two.y + y[j].at[2 * i + 1]};
      }
    });
  }

  __device__ __forceinline__ void normalised(const Places& of, const float* gain,
                                             const float* shift, Packed& y) const {
    Wide wide;
    read(of, wide);
    normalise(wide, D(), gain, shift, z.eps);
    as_factor<T>(wide, y);
  }

  // What this warp multiplies several times over, to shared memory and back.
  __device__ __forceinline__ void keep(const Packed& y) const {
    const int r = thread_now() / WARP * TILE + tile_row(), first = tile_pair();
#pragma unroll
    for (int s = 0; s < STEPS; ++s)
      if (full || 64 * (s / 4) < z.D)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          *(uint32_t*)a.slab(s / 4).at(r + i % 2 * 8, s % 4 * 16 + i / 2 * 8 + first) =
              y[s].word[i];
    __syncwarp();
  }
  __device__ __forceinline__ void kept(Packed& y) const {
    const unsigned thread = thread_now();
    load_rows(y, a, thread / WARP * TILE + thread % 16, D());
  }

  // The rows of c as long as `more`, times `dims`.
  __device__ __forceinline__ void lengthen(Narrow& c, float more, const float* dims) const {
    float scale[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float squares = 0;  // zeros behind the last dim
#pragma unroll
      for (const FragmentC& part : c)
        squares += part.at[2 * i] * part.at[2 * i] + part.at[2 * i + 1] * part.at[2 * i + 1];
      scale[i] = more / fmaxf(sqrtf(over_lanes<4>(squares, Sum())), SMALLEST_NORM);
    }
    each_pair<64>(z.Dh, [&](int j, int d) {
      const float even = dims[d], odd = dims[d + 1];
#pragma unroll
      for (int i = 0; i < 2; ++i)
        c[j].at[2 * i] *= scale[i] * even, c[j].at[2 * i + 1] *= scale[i] * odd;
    });
  }

  __device__ __forceinline__ void store_keys(const Slab<T>& to, const Narrow& c) const {
    const Places all = places(0);
    each_row({all.rows, KEYS + all.at}, [&](int i, int key) {
      each_pair<64>(z.Dh, [&](int j, int d) {
        *(uint32_t*)to.at(key, d) = pack<T>(c[j].at[2 * i], c[j].at[2 * i + 1]);
      });
    });
  }

  // q of places(count), ready to be multiplied, and all keys and values of head h where attend()
  // finds them; LN(x) of all rows is kept.
  template <typename Panels>
  __device__ __forceinline__ void project(const BlockWeights<T>& w, int h, Panels& panels,
                                          int count, FragmentA (&q)[4]) const {
    Packed y;
    Narrow c = {};
    Slabs<T> panel = panels.take();
    if (places(count).rows.there(0)) {
      if (count)
        normalised(places(count), w.gain_in, w.shift_in, y);
      else
        kept(y);
      multiply<T>(c, y, panel, z.Dh, D());
      // base 2 exponents, and the division by sqrt(Dh), once and for all
      lengthen(c, LOG2_E * rsqrtf((float)z.Dh), w.q_scale);
    }
#pragma unroll
    for (int s = 0; s < 4; ++s) q[s] = as_factor<T>(c[2 * s], c[2 * s + 1]);
    if (count) kept(y);
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      panel = panels.take();  // all have attended to the last head before they took one
      if (part == 0) attention.store_null(w.null_kv, w.k_scale, h);
      if (!places(0).rows.there(0)) continue;
      clear(c);
      multiply<T>(c, y, panel, z.Dh, D());
      if (part == 0) lengthen(c, 1, w.k_scale);
      store_keys(part == 0 ? attention.k : attention.v, c);
    }
    __syncthreads();
  }

  // y = a times n rows of a weight, zeros behind them
  template <typename Panels>
  __device__ __forceinline__ void product(const Packed& a, int K, Panels& panels, int n,
                                          Wide& y) const {
    clear(y);
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (64 * half < n) multiply<T>(y + 8 * half, a, panels.take(), n - 64 * half, K);
  }

  // What a warp without rows does while others compute products of n panels.
  template <typename Panels>
  __device__ __forceinline__ static void skip(Panels& panels, int n) {
#pragma unroll 1
    for (int i = 0; i < n; ++i) panels.take();
  }

  // places(count) of x go through the layer; keys and values are those of all rows.
  template <typename Panels>
  __device__ __forceinline__ void layer(const BlockWeights<T>& w, Panels& panels, int count) const {
    Packed y;
    Wide wide;
    if (places(0).rows.there(0)) {
      normalised(places(0), w.gain_in, w.shift_in, y);
      keep(y);
    }
    clear(y);
    for (int h = 0; h < z.H; ++h) {
      FragmentA q[4];
      project(w, h, panels, count, q);
      attention.attend(q, places(count).rows, h, y);
    }
    if (!places(count).rows.there(0)) return skip(panels, LayerPanels<T>{z}.count() - 3 * z.H);
    product(y, z.H * z.Dh, panels, D(), wide);
    normalise(wide, D(), w.gain_out, w.shift_out, z.eps);
    add(places(count), wide);

    normalised(places(count), w.gain_ff, w.shift_ff, y);
    product(y, D(), panels, z.F, wide);
    gelu_all(wide, z.F);
    normalise(wide, z.F, w.gain_mid, w.shift_mid, z.eps);
    as_factor<T>(wide, y);
    product(y, z.F, panels, D(), wide);
    add(places(count), wide);
  }
};

}  // namespace tsgen::cuda
