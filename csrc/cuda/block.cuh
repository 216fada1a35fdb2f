// A transformer block on the rows of a CTA, whole sequences: the rows stay in shared memory, the
// weights stream from L2 into the fragments of tensor cores.
//
//   x += LN_out(W_out attention(W_qkv LN_in(x)))      x += W_down LN_mid(gelu(W_up LN_ff(x)))
//
// M = G T rows: G sequences of T tokens. D width, H heads of Dh dims, F features. Products take
// k in steps of 32 of which a lane holds 8 neighbours: in each of two mma its four k are not those
// of the book, but the same ones of a and of b.
#pragma once

#include "cuda/decode.h"
#include "cuda/machine/functions.cuh"
#include "cuda/machine/matrix.cuh"
#include "cuda/machine/reduce.cuh"

namespace tsgen::cuda {

constexpr int BLOCK_THREADS = 256, BLOCK_WARPS = BLOCK_THREADS / WARP;
constexpr int K_STEP = 32;               // of a product, so rows of 16-bit numbers are padded to it
constexpr float SMALLEST_NORM = 1e-12f;  // as in tsgen/ops/attention.py

// Weights of one layer, as tsgen/ops/transformer_block.py has them; `T` are the rows' own type.
template <typename T>
struct BlockWeights {
  const float *gain_in, *shift_in, *null_kv, *q_scale, *k_scale;
  const float *gain_out, *shift_out, *gain_ff, *shift_ff, *gain_mid, *shift_mid;
  const T *qkv, *out, *up, *down;  // rows of D, H Dh, D and `down_stride` numbers
};

// Where things are in shared memory, in bytes; several of them one after the other in one place.
struct BlockRoom {
  int G, M, key_rows;                  // sequences and rows of a CTA; key_rows of a sequence
  int a, q, k, v, mixed, sum, hidden;  // behind x, which is float and comes first
  int n_bytes;
};

constexpr int MOST_ROWS = 144, KEY_TILES = MOST_ROWS / 8;  // of eight keys, of a sequence

// For G sequences. A row's bits do not depend on them.
inline BlockRoom block_room(const BlockSizes& z, int G) {
  BlockRoom room;
  room.G = G;
  room.M = room.G * z.T;
  room.key_rows = round_up(z.T + 1, 16);  // and the null key
  const int rows = round_up(room.M, 16), keys = room.G * room.key_rows;
  const auto bytes = [](int n, int width) { return round_up(n * width, 128); };
  room.a = bytes(rows, 4 * z.D);
  room.q = room.a + bytes(rows, 2 * round_up(z.D, K_STEP));
  room.k = room.q + bytes(rows, 2 * z.Dh);
  room.v = room.k + bytes(keys, 2 * z.Dh);
  room.mixed = room.v + bytes(keys, 2 * z.Dh);
  room.sum = room.a;  // the output projection, before its norm
  if (room.mixed < room.sum + bytes(rows, 4 * z.D)) room.mixed = room.sum + bytes(rows, 4 * z.D);
  room.hidden = room.q;
  const int widest = z.H * z.Dh > z.D ? z.H * z.Dh : z.D;  // also the head's input
  const int end = room.mixed + bytes(rows, 2 * round_up(widest, K_STEP));
  const int hidden_end = room.hidden + bytes(rows, 2 * round_up(z.F, K_STEP));
  room.n_bytes = end > hidden_end ? end : hidden_end;
  return room;
}

// How many of n a CTA takes, of those that fit: as few as still make work for the whole device.
inline int together(int64_t n, int fit, int64_t device) {
  const int64_t each = ceil_div(n, n_processors(device));
  return each < fit ? (int)each : fit;
}

// Rows of 16-bit numbers, `width` each, in which 16 bytes of neighbouring rows are in other banks.
template <typename T>
struct Rows {
  T* base;
  int width;

  __device__ T* at(int row, int column) const {
    const int twist = width % 64 == 0   ? (row & 1) << 2 | (row >> 1 & 3)
                      : width % 32 == 0 ? row >> 1 & 3
                                        : 0;
    return base + row * width + (column ^ twist << 3);
  }
  __device__ uint4 eight(int row, int column) const { return *(const uint4*)at(row, column); }
};

// x, in float: pairs of neighbouring rows are in other banks.
struct Residual {
  float* base;
  int D;

  __device__ float& at(int row, int column) const {
    return base[row * D + (column ^ (D % 32 == 0 ? (row & 3) << 3 : 0))];
  }
};

// Two k steps of a tile of 16 rows: of a lane's rows, eight numbers each.
struct TwoSteps {
  uint4 low, high;

  __device__ FragmentA first() const { return {{low.x, high.x, low.y, high.y}}; }
  __device__ FragmentA second() const { return {{low.z, high.z, low.w, high.w}}; }
};

template <typename T>
__device__ __forceinline__ TwoSteps two_steps(const Rows<T>& a, int row, int column) {
  return {a.eight(row, column), a.eight(row + 8, column)};
}

// Eight of a row's K numbers, from k on; zeros behind the last.
template <typename T>
__device__ __forceinline__ uint4 eight_of(const T* row, int k, int K) {
  if (k >= K) return {0, 0, 0, 0};
  uint4 x = __ldg((const uint4*)(row + k));
  if (k + 8 > K) {
    const int n = K - k;  // of them there are
    const auto kept = [n](uint32_t word, int i) {
      return n > 2 * i + 1 ? word : n > 2 * i ? word & 0xffff : 0;
    };
    x = {kept(x.x, 0), kept(x.y, 1), kept(x.z, 2), kept(x.w, 3)};
  }
  return x;
}

// out(row, column, value, value of the next column) for rows of a (n_rows, K) times the weight's
// rows weight_row(0 to n_columns - 1), both even. Each warp takes tiles of 32 rows, 64 columns.
template <typename T, typename WeightRow, typename Out>
__device__ void product(const Rows<T>& a, int n_rows, int K, int n_columns,
                        const WeightRow& weight_row, const Out& out) {
  constexpr int R = 2, C = 8;
  const int lane = threadIdx.x % WARP, row = lane / 4, part = lane % 4 * 8;
  const int row_tiles = round_up(n_rows, 16) / 16, groups = round_up(row_tiles, R) / R;
  const int n_units = groups * (round_up(n_columns, 8 * C) / (8 * C));
  for (int unit = threadIdx.x / WARP; unit < n_units; unit += BLOCK_WARPS) {
    const int tile = unit % groups * R, column = unit / groups * 8 * C;
    FragmentC c[R][C] = {};
    for (int k = part; k < round_up(K, K_STEP); k += K_STEP) {
      TwoSteps steps[R];
#pragma unroll
      for (int r = 0; r < R; ++r)
        steps[r] = two_steps(a, 16 * min(tile + r, row_tiles - 1) + row, k);
#pragma unroll
      for (int j = 0; j < C; ++j) {
        if (column + 8 * j >= n_columns) break;
        const int n = column + 8 * j + row;
        const uint4 b = n < n_columns ? eight_of(weight_row(n), k, K) : uint4{0, 0, 0, 0};
#pragma unroll
        for (int r = 0; r < R; ++r) {
          if (tile + r >= row_tiles) break;
          multiply_add<T>(c[r][j], steps[r].first(), {{b.x, b.y}});
          multiply_add<T>(c[r][j], steps[r].second(), {{b.z, b.w}});
        }
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < C; ++j) {
          const int m = 16 * (tile + r) + 8 * i + row, n = column + 8 * j + lane % 4 * 2;
          if (m < n_rows && n < n_columns) out(m, n, c[r][j].at[2 * i], c[r][j].at[2 * i + 1]);
        }
  }
}

// to(column, normalised value) of n numbers get(column), by one warp; LN as in norm_linear.py
template <typename Get, typename To>
__device__ __forceinline__ void normalise(int n, const float* gain, const float* shift, float eps,
                                          const Get& get, const To& to) {
  const int lane = threadIdx.x % WARP;
  float sum = 0, squares = 0;
  for (int i = lane; i < n; i += WARP) sum += get(i);
  const float mean = over_lanes(sum, Sum()) / n;
  for (int i = lane; i < n; i += WARP) squares += (get(i) - mean) * (get(i) - mean);
  const float scale = rsqrtf(over_lanes(squares, Sum()) / n + eps);
  for (int i = lane; i < n; i += WARP) to(i, (get(i) - mean) * scale * gain[i] + shift[i]);
}

// do_it(i) for all i < n, a warp each.
template <typename F>
__device__ __forceinline__ void each_warp(int n, const F& do_it) {
  for (int i = threadIdx.x / WARP; i < n; i += BLOCK_WARPS) do_it(i);
}

// A CTA's rows and the rooms beside them.
template <typename T>
struct BlockTile {
  BlockSizes z;
  BlockRoom room;
  Residual x;
  Rows<T> a, q, k, v, mixed, hidden;
  float* sum;

  __device__ BlockTile(char* shared, const BlockSizes& sizes, const BlockRoom& where)
      : z(sizes),
        room(where),
        x{(float*)shared, sizes.D},
        a{(T*)(shared + where.a), round_up(sizes.D, K_STEP)},
        q{(T*)(shared + where.q), sizes.Dh},
        k{(T*)(shared + where.k), sizes.Dh},
        v{(T*)(shared + where.v), sizes.Dh},
        mixed{(T*)(shared + where.mixed), round_up(sizes.H * sizes.Dh, K_STEP)},
        hidden{(T*)(shared + where.hidden), round_up(sizes.F, K_STEP)},
        sum((float*)(shared + where.sum)) {}

  // a = LN(x)
  __device__ void normalise_rows(const float* gain, const float* shift) const {
    each_warp(room.M, [&](int m) {
      normalise(
          z.D, gain, shift, z.eps, [&](int i) { return x.at(m, i); },
          [&](int i, float y) { *a.at(m, i) = store<T>(y); });
      for (int i = z.D + threadIdx.x % WARP; i < a.width; i += WARP) *a.at(m, i) = store<T>(0);
    });
  }

  // q, k and v of head h, each row of q and k of the length that its scale says
  __device__ void project(const BlockWeights<T>& w, int h) const {
    const int Dh = z.Dh, keys = room.key_rows;
    const auto weight_row = [&](int n) {
      return w.qkv + ((int64_t)(n / Dh * z.H + h) * Dh + n % Dh) * z.D;
    };
    product(a, room.M, z.D, 3 * Dh, weight_row, [&](int m, int n, float y0, float y1) {
      const int key = m / z.T * keys + m % z.T, column = n % Dh;
      T* const to = n < Dh ? q.at(m, column) : n < 2 * Dh ? k.at(key, column) : v.at(key, column);
      *(uint32_t*)to = pack<T>(y0, y1);
    });
    // the null key, and nothing in the rows behind it
    each_warp(room.G * (keys - z.T), [&](int i) {
      const int t = z.T + i % (keys - z.T), row = i / (keys - z.T) * keys + t;
      const float* const null = w.null_kv + h * Dh;
      for (int d = threadIdx.x % WARP; d < Dh; d += WARP) {
        *k.at(row, d) = store<T>(t == z.T ? null[d] : 0);
        *v.at(row, d) = store<T>(t == z.T ? null[z.H * Dh + d] : 0);
      }
    });
    __syncthreads();
    // base 2 exponents, and the division by sqrt(Dh), once and for all
    const float more = LOG2_E * rsqrtf((float)Dh);
    each_warp(room.M, [&](int m) { lengthen(q, m, w.q_scale, more); });
    each_warp(room.G * (z.T + 1),
              [&](int i) { lengthen(k, i / (z.T + 1) * keys + i % (z.T + 1), w.k_scale, 1); });
    __syncthreads();
  }

  __device__ void lengthen(const Rows<T>& rows, int row, const float* scale, float more) const {
    const int lane = threadIdx.x % WARP;
    float squares = 0;
    for (int d = lane; d < z.Dh; d += WARP) {
      const float y = load(*rows.at(row, d));
      squares += y * y;
    }
    more /= fmaxf(sqrtf(over_lanes(squares, Sum())), SMALLEST_NORM);
    for (int d = lane; d < z.Dh; d += WARP)
      *rows.at(row, d) = store<T>(load(*rows.at(row, d)) * (scale[d] * more));
  }

  // mixed, of head h: a warp takes 16 queries of a sequence, and all its keys
  __device__ void attend(int h) const {
    const int tiles = round_up(z.T, 16) / 16;
    each_warp(room.G * tiles, [&](int unit) {
      const int g = unit / tiles, first = unit % tiles * 16;
      attend_tile(h, g, first);
    });
  }

  __device__ void attend_tile(int h, int g, int first) const {
    const int lane = threadIdx.x % WARP, row = lane / 4, pair = lane % 4 * 2;
    const int key0 = g * room.key_rows, q0 = g * z.T + first;
    const int last = room.M - 1;  // queries behind it are not there, and are not stored
    FragmentC s[KEY_TILES] = {};
    for (int d = lane % 4 * 8; d < round_up(z.Dh, K_STEP); d += K_STEP) {
      const bool there = d < z.Dh;
      const uint4 zero{0, 0, 0, 0};
      const TwoSteps steps{there ? q.eight(min(q0 + row, last), d) : zero,
                           there ? q.eight(min(q0 + row + 8, last), d) : zero};
#pragma unroll
      for (int j = 0; j < KEY_TILES; ++j) {
        if (8 * j > z.T) break;
        const uint4 b = there ? k.eight(key0 + 8 * j + row, d) : zero;
        multiply_add<T>(s[j], steps.first(), {{b.x, b.y}});
        multiply_add<T>(s[j], steps.second(), {{b.z, b.w}});
      }
    }
    uint32_t p[2 * KEY_TILES] = {};  // of both rows: pairs of keys, as the next product wants them
    float total[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float largest = -INFINITY;
#pragma unroll
      for (int j = 0; j < KEY_TILES; ++j) {
        if (8 * j > z.T) break;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = s[j].at[2 * i + e];
          if (8 * j + pair + e > z.T) score = -INFINITY;
          largest = fmaxf(largest, score);
        }
      }
      largest = over_lanes<4>(largest, Max());
      total[i] = 0;
#pragma unroll
      for (int j = 0; j < KEY_TILES; ++j) {
        if (8 * j > z.T) break;
        const float p0 = exp2f(s[j].at[2 * i] - largest), p1 = exp2f(s[j].at[2 * i + 1] - largest);
        total[i] += p0 + p1;
        p[2 * j + i] = pack<T>(p0, p1);
      }
      total[i] = over_lanes<4>(total[i], Sum());
    }
    for (int n = 0; n < z.Dh; n += 16) {
      FragmentC c[2] = {};
#pragma unroll
      for (int j = 0; j < KEY_TILES; j += 2) {
        if (8 * j > z.T) break;
        const FragmentA weights{{p[2 * j], p[2 * j + 1], p[2 * j + 2], p[2 * j + 3]}};
        uint32_t b[4];
        const int key = key0 + 8 * j + lane / 8 % 2 * 8 + lane % 8;
        load_matrices<true>(b, v.at(key, n + lane / 16 * 8));
        multiply_add<T>(c[0], weights, {{b[0], b[1]}});
        multiply_add<T>(c[1], weights, {{b[2], b[3]}});
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (first + row + 8 * i >= z.T) continue;
          const float y0 = c[e].at[2 * i] / total[i], y1 = c[e].at[2 * i + 1] / total[i];
          *(uint32_t*)mixed.at(q0 + row + 8 * i, h * z.Dh + n + 8 * e + pair) = pack<T>(y0, y1);
        }
    }
  }

  // x += LN(W_out mixed)
  __device__ void add_mixed(const BlockWeights<T>& w) const {
    const int inner = z.H * z.Dh;
    each_warp(room.M, [&](int m) {  // what a product's last step reads beyond a row's end
      for (int i = inner + threadIdx.x % WARP; i < mixed.width; i += WARP)
        *mixed.at(m, i) = store<T>(0);
    });
    __syncthreads();
    product(
        mixed, room.M, inner, z.D, [&](int n) { return w.out + (int64_t)n * inner; },
        [&](int m, int n, float y0, float y1) {
          sum[m * z.D + n] = y0, sum[m * z.D + n + 1] = y1;
        });
    __syncthreads();
    each_warp(room.M, [&](int m) {
      normalise(
          z.D, w.gain_out, w.shift_out, z.eps, [&](int i) { return sum[m * z.D + i]; },
          [&](int i, float y) { x.at(m, i) += y; });
    });
    __syncthreads();
  }

  // x += W_down LN(gelu(W_up LN(x)))
  __device__ void feed_forward(const BlockWeights<T>& w) const {
    normalise_rows(w.gain_ff, w.shift_ff);
    __syncthreads();
    product(
        a, room.M, z.D, z.F, [&](int n) { return w.up + (int64_t)n * z.D; },
        [&](int m, int n, float y0, float y1) {
          *hidden.at(m, n) = store<T>(gelu(y0));
          if (n + 1 < z.F) *hidden.at(m, n + 1) = store<T>(gelu(y1));
        });
    __syncthreads();
    each_warp(room.M, [&](int m) {
      normalise(
          z.F, w.gain_mid, w.shift_mid, z.eps, [&](int i) { return load(*hidden.at(m, i)); },
          [&](int i, float y) { *hidden.at(m, i) = store<T>(y); });
      for (int i = z.F + threadIdx.x % WARP; i < hidden.width; i += WARP)
        *hidden.at(m, i) = store<T>(0);
    });
    __syncthreads();
    product(
        hidden, room.M, z.F, z.D, [&](int n) { return w.down + (int64_t)n * z.down_stride; },
        [&](int m, int n, float y0, float y1) { x.at(m, n) += y0, x.at(m, n + 1) += y1; });
    __syncthreads();
  }

  __device__ void block(const BlockWeights<T>& w) const {
    normalise_rows(w.gain_in, w.shift_in);
    __syncthreads();
    for (int h = 0; h < z.H; ++h) {
      project(w, h);
      attend(h);
      __syncthreads();
    }
    add_mixed(w);
    feed_forward(w);
  }
};

}  // namespace tsgen::cuda
