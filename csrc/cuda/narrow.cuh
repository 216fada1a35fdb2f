// A transformer layer in which each warp has 16 rows and all their columns, for layers up to 128
// wide; block.cuh has the equations.
//
// What one product leaves in a warp's registers is what its next one takes, so that norms are sums
// over four lanes, and no warp waits for another but for weights, keys and values. x stays in shared
// memory, in float. Weights come in panels of 64 rows, see machine/panels.cuh: all barriers but one
// a head are theirs.
#pragma once

#include "cuda/block.cuh"
#include "cuda/machine/panels.cuh"

namespace tsgen::cuda {

constexpr int TILE = 16, WIDTH = NARROW, STEPS = WIDTH / 16;  // rows of a warp, their width, k steps
constexpr int BODY_WARPS = 8, NARROW_WARPS = BODY_WARPS + 1, NARROW_THREADS = NARROW_WARPS * WARP;
constexpr int BODY = BODY_WARPS * TILE, NARROW_ROWS = NARROW_WARPS * TILE;

using Wide = FragmentC[WIDTH / 8];  // 16 rows of 128 in float
using Packed = FragmentA[STEPS];    // the same in 16 bits
using Narrow = FragmentC[64 / 8];   // 16 rows of 64 in float

// What a CTA has: the last warp's rows are the first tokens of all sequences, the other warps' those
// behind them, so that sequences of 2^n + 1 tokens fill warps.
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
  room.x = room.at + 2 * 4 * NARROW_ROWS;
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

  __device__ int of_width(int n) const { return (n + PANEL_ROWS - 1) / PANEL_ROWS; }
  __device__ int count() const { return 3 * z.H + 2 * of_width(z.D) + of_width(z.F); }

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

// y = LN(y) of n numbers a row, zeros behind them; LN as in norm_linear.py
__device__ __forceinline__ void normalise(Wide& y, int n, const float* gain, const float* shift,
                                          float eps) {
  const int pair = threadIdx.x % 4 * 2 + not_yet();
  float mean[2], scale[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float sum = 0, squares = 0;
#pragma unroll
    for (int j = 0; j < WIDTH / 8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) sum += y[j].at[2 * i + e];  // zero behind the last one
    mean[i] = over_lanes<4>(sum, Sum()) / n;
#pragma unroll
    for (int j = 0; j < WIDTH / 8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float off = y[j].at[2 * i + e] - mean[i];
        if (n == WIDTH || pair < n - 8 * j - e) squares += off * off;
      }
    scale[i] = rsqrtf(over_lanes<4>(squares, Sum()) / n + eps);
  }
#pragma unroll
  for (int j = 0; j < WIDTH / 8; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int column = 8 * j + pair + e;
      const bool there = n == WIDTH || pair < n - 8 * j - e;
      const float g = there ? gain[column] : 0, s = there ? shift[column] : 0;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& value = y[j].at[2 * i + e];
        value = there ? (value - mean[i]) * scale[i] * g + s : 0;
      }
    }
}

__device__ __forceinline__ void gelu_all(Wide& y, int n) {
#pragma unroll
  for (int j = 0; j < WIDTH / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (8 * j < n) y[j].at[i] = gelu(y[j].at[i]);
}

// Accumulators as the first factor of a product.
template <typename T>
__device__ __forceinline__ FragmentA as_factor(const FragmentC& left, const FragmentC& right) {
  return {{pack<T>(left.at[0], left.at[1]), pack<T>(left.at[2], left.at[3]),
           pack<T>(right.at[0], right.at[1]), pack<T>(right.at[2], right.at[3])}};
}

template <typename T>
__device__ __forceinline__ void as_factor(const Wide& x, Packed& a) {
#pragma unroll
  for (int s = 0; s < STEPS; ++s) a[s] = as_factor<T>(x[2 * s], x[2 * s + 1]);
}

template <typename Fragment, int n>
__device__ __forceinline__ void clear(Fragment (&c)[n]) {
#pragma unroll
  for (Fragment& part : c) part = {};
}

// A warp's rows, and where each of them is in x.
struct Places {
  Owned rows;
  int* at;  // (TILE), in shared memory
};

// full: D is WIDTH, which saves the question whether a column is there.
template <typename T, bool full>
struct NarrowTile {
  const BlockSizes& z;
  const NarrowRoom& room;
  Slab<T> k, v;
  Slabs<T> a;  // what is multiplied, of each warp in its rows
  float* x;    // (G T, D)
  Places all;  // of this warp, where all rows are computed

  __device__ NarrowTile(char* shared, const BlockSizes& sizes, const NarrowRoom& where)
      : z(sizes),
        room(where),
        k{(T*)(shared + where.k)},
        v{(T*)(shared + where.v)},
        a{(T*)(shared + where.a), NARROW_ROWS},
        x((float*)(shared + where.x)) {
    const int warp = threadIdx.x / WARP, behind = z.T - 1;
    const bool first = warp == BODY_WARPS;
    all.at = (int*)(shared + where.at) + warp * TILE;
    all.rows = first ? Owned{0, room.G, 1} : Owned{warp * TILE, room.G * behind, max(behind, 1)};
    const int r = threadIdx.x % TILE;  // twice, by two lanes
    all.at[r] = all.rows.sequence(r) * z.T + (first ? 0 : 1 + all.rows.among(r));
    __syncwarp();
  }

  __device__ int D() const { return full ? WIDTH : z.D; }
  // This lane's pairs of columns of row m in x: four rows of them are in all banks.
  struct Line {
    float* base;
    int twist;

    __device__ float2& at(int j) const { return *(float2*)(base + j / 4 * 32 + (j % 4 * 8 ^ twist)); }
  };
  __device__ Line line(int m) const { return {x + m * D() + pair(), twist(m)}; }
  __device__ int twist(int m) const { return D() % 32 == 0 ? (m & 3) << 3 : 0; }
  // Of this lane in the tile: its first row, its first column.
  __device__ static int row() { return threadIdx.x % WARP / 4 + not_yet(); }
  __device__ static int pair() { return threadIdx.x % 4 * 2 + not_yet(); }

  // do_it(i, its row in x) of this lane's two rows, where they are there
  template <typename F>
  __device__ __forceinline__ static void each_row(const Places& of, const F& do_it) {
    const int r = row();
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (of.rows.there(r + 8 * i)) do_it(i, of.at[r + 8 * i]);
  }

  // do_it(j, column) of this lane's pairs of columns of n
  template <int width, typename F>
  __device__ __forceinline__ static void each_pair(int n, const F& do_it) {
    const int first = pair();
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
    const int r = threadIdx.x / WARP * TILE + row(), first = pair();
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
    load_rows(y, a, threadIdx.x / WARP * TILE + threadIdx.x % 16 + not_yet(), D());
  }

  // Behind the last key and the null key there is nothing, in no layer.
  __device__ void clear_keys() const {
    const int behind = room.key_rows - z.T - 1;
    for (int i = threadIdx.x; i < room.G * behind * z.Dh; i += blockDim.x) {
      const int r = i / z.Dh, key = r / behind * room.key_rows + z.T + 1 + r % behind;
      *k.at(key, i % z.Dh) = *v.at(key, i % z.Dh) = store<T>(0);
    }
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
    each_row(all, [&](int i, int m) {
      const int key = m / z.T * room.key_rows + m % z.T;
      each_pair<64>(z.Dh, [&](int j, int d) {
        *(uint32_t*)to.at(key, d) = pack<T>(c[j].at[2 * i], c[j].at[2 * i + 1]);
      });
    });
  }

  __device__ void store_null(const float* null_kv, int h) const {
    for (int i = threadIdx.x; i < room.G * z.Dh; i += blockDim.x) {
      const int key = i / z.Dh * room.key_rows + z.T, d = i % z.Dh;
      *k.at(key, d) = store<T>(null_kv[h * z.Dh + d]);
      *v.at(key, d) = store<T>(null_kv[(z.H + h) * z.Dh + d]);
    }
  }

  // q, ready to be multiplied, and keys and values of head h where attend() finds them; of the rows
  // that are kept, q of the others where there are some
  template <typename Panels>
  __device__ __forceinline__ void project(const BlockWeights<T>& w, int h, Panels& panels,
                                          const Places& mine, bool some,
                                          FragmentA (&q)[4]) const {
    Packed y;
    if (some)
      normalised(mine, w.gain_in, w.shift_in, y);
    else
      kept(y);
    Narrow c = {};
    multiply<T>(c, y, panels.take(), z.Dh, D());
    // base 2 exponents, and the division by sqrt(Dh), once and for all
    lengthen(c, LOG2_E * rsqrtf((float)z.Dh), w.q_scale);
#pragma unroll
    for (int s = 0; s < 4; ++s) q[s] = as_factor<T>(c[2 * s], c[2 * s + 1]);
    if (some) kept(y);
    clear(c);
    multiply<T>(c, y, panels.take(), z.Dh, D());
    lengthen(c, 1, w.k_scale);
    store_keys(k, c);  // all have attended to the last head before they took a panel
    store_null(w.null_kv, h);
    clear(c);
    multiply<T>(c, y, panels.take(), z.Dh, D());
    store_keys(v, c);
    __syncthreads();
  }

  // s = q k', of keys from key0 on
  template <int tiles>
  __device__ __forceinline__ void scores(const FragmentA (&q)[4], int key0,
                                         FragmentC (&s)[tiles]) const {
    const int lane = threadIdx.x % WARP + not_yet(), key = key0 + lane / 16 * 8 + lane % 8;
    const T* at[4];
#pragma unroll
    for (int step = 0; step < 4; ++step)
      // behind the last dim q is zero, and what it is multiplied by any number
      at[step] = k.at(key, min(16 * step, z.Dh - 16) + lane / 8 % 2 * 8);
    clear(s);
#pragma unroll
    for (int j = 0; j < tiles; j += 2)
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        uint32_t b[4];
        load_matrices<false>(b, at[step] + 8 * j * 64);
        multiply_add<T>(s[j], q[step], {{b[0], b[1]}});
        multiply_add<T>(s[j + 1], q[step], {{b[2], b[3]}});
      }
  }

  // s = 2^(s - its largest) in rows row() + 8 i, 0 behind the null key; returns their sum
  template <int tiles>
  __device__ __forceinline__ float exponentials(FragmentC (&s)[tiles], int i) const {
    float largest = -INFINITY, total = 0;
    const int last = z.T - pair();  // the null key, as this lane counts
#pragma unroll
    for (int j = 0; j < tiles; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = s[j].at[2 * i + e];
        if (8 * j + e > last) score = -INFINITY;
        largest = fmaxf(largest, score);
      }
    largest = over_lanes<4>(largest, Max());
#pragma unroll
    for (FragmentC& part : s)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = part.at[2 * i + e];
        score = exp2_fast(score - largest);
        total += score;
      }
    return over_lanes<4>(total, Sum());
  }

  // mixed, where it belongs to head h: q looks at the keys of every row's own sequence
  template <int blocks>
  __device__ __forceinline__ void attend(const FragmentA (&q)[4], const Owned& mine, int h,
                                         Packed& mixed) const {
    const int lane = threadIdx.x % WARP + not_yet(), last = min(TILE, mine.n - mine.first) - 1;
    for (int g = mine.sequence(0); g <= mine.sequence(last); ++g) {
      const int key0 = g * room.key_rows;
      FragmentC s[2 * blocks];
      scores(q, key0, s);
      const float share[2] = {1 / exponentials(s, 0), 1 / exponentials(s, 1)};
      const int r = row();
      const bool own[2] = {mine.sequence(r) == g, mine.sequence(r + 8) == g};
#pragma unroll
      for (int slot = 0; slot < STEPS; ++slot) {  // known when it is compiled: mixed is registers
        const int d = 16 * slot - h * z.Dh;
        if (d < 0 || d >= z.Dh) continue;
        FragmentC c[2] = {};
        const T* const at = v.at(key0 + lane % 16, d + lane / 16 * 8);
#pragma unroll
        for (int block = 0; block < blocks; ++block) {
          uint32_t b[4];
          load_matrices<true>(b, at + 16 * block * 64);
          const FragmentA weights = as_factor<T>(s[2 * block], s[2 * block + 1]);
          multiply_add<T>(c[0], weights, {{b[0], b[1]}});
          multiply_add<T>(c[1], weights, {{b[2], b[3]}});
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // row + 8 in the odd words, columns + 8 in the last two
          const float y0 = c[i / 2].at[2 * (i % 2)], y1 = c[i / 2].at[2 * (i % 2) + 1];
          if (own[i % 2]) mixed[slot].word[i] = pack<T>(y0 * share[i % 2], y1 * share[i % 2]);
        }
      }
    }
  }

  __device__ __forceinline__ void attend(const FragmentA (&q)[4], const Owned& mine, int h,
                                         Packed& mixed) const {
    if (!mine.there(0)) return;
    switch (key_blocks(z.T)) {
      case 1:
        return attend<1>(q, mine, h, mixed);
      case 2:
        return attend<2>(q, mine, h, mixed);
      case 3:
        return attend<3>(q, mine, h, mixed);
      default:
        return attend<5>(q, mine, h, mixed);
    }
  }

  // y = a times n rows of a weight, zeros behind them; all panels are taken, also by idle warps
  template <typename Panels>
  __device__ __forceinline__ void product(const Packed& a, int K, Panels& panels, int n,
                                          Wide& y) const {
    clear(y);
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (64 * half < n) multiply<T>(y + 8 * half, a, panels.take(), n - 64 * half, K);
  }

  // The rows `mine` of x go through the layer; keys and values are those of all rows. `some`:
  // whether `mine` are not all of them.
  template <typename Panels>
  __device__ __forceinline__ void layer(const BlockWeights<T>& w, Panels& panels,
                                        const Places& mine, bool some) const {
    Packed y;
    Wide wide;
    normalised(all, w.gain_in, w.shift_in, y);
    keep(y);
    clear(y);
    for (int h = 0; h < z.H; ++h) {
      FragmentA q[4];
      project(w, h, panels, mine, some, q);
      attend(q, mine.rows, h, y);
    }
    product(y, z.H * z.Dh, panels, D(), wide);
    normalise(wide, D(), w.gain_out, w.shift_out, z.eps);
    add(mine, wide);

    normalised(mine, w.gain_ff, w.shift_ff, y);
    product(y, D(), panels, z.F, wide);
    gelu_all(wide, z.F);
    normalise(wide, z.F, w.gain_mid, w.shift_mid, z.eps);
    as_factor<T>(wide, y);
    product(y, z.F, panels, D(), wide);
    add(mine, wide);
  }
};

}  // namespace tsgen::cuda
