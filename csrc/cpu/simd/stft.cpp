// The inner loops of stft and istft, once per instruction set. Lanes are frames: a sample n of
// many frames is a row of its own, and a plane is a weighted sum of such rows.
#include "simd/stft.h"

#include "simd/gemm.h"
#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// How many of n columns to take at a time: about as many each, so that no short rest remains.
int64_t section(int64_t n) {
  const int64_t n_sections = most(n / (COLUMNS / 2), 1);
  return ((n + n_sections - 1) / n_sections + SLACK - 1) / SLACK * SLACK;
}

// `rows` rows from i on, in n_vectors vectors of columns or in the first n < LANES.
template <int rows, int n_vectors, bool whole = true>
void mix_tile(const Mix& m, int64_t i, const float* in, float* out, int64_t n = LANES) {
  const float* const coefficient = m.coefficient + i * m.n_in;
  Floats sum[rows][n_vectors]{};
  for (int64_t k = 0; k < m.n_in; ++k) {
    const float* const from = in + m.in_at[k];
    Floats x[n_vectors];
    for (int v = 0; v < n_vectors; ++v) x[v] = whole ? load(from + v * LANES) : load_first(from, n);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < n_vectors; ++v) sum[r][v] += all(coefficient[r * m.n_in + k]) * x[v];
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < n_vectors; ++v) {
      float* const to = out + m.out_at[i + r] + v * LANES;
      if (whole)
        store(to, sum[r][v]);
      else
        store_first(to, sum[r][v], n);
    }
}

// n columns of n_rows <= rows rows.
template <int rows>
void mix_rows(const Mix& m, int64_t i, int64_t n_rows, const float* in, float* out, int64_t n) {
  if constexpr (rows > 1)
    if (n_rows < rows) return mix_rows<rows - 1>(m, i, n_rows, in, out, n);
  if (n < LANES) return mix_tile<rows, 1, false>(m, i, in, out, n);
  int64_t c = 0;
  for (; c + 2 * LANES <= n; c += 2 * LANES) mix_tile<rows, 2>(m, i, in + c, out + c);
  for (; c < n; c += LANES) {  // the last vector ends with the row: some columns come twice
    const int64_t at = least(c, n - LANES);
    mix_tile<rows, 1>(m, i, in + at, out + at);
  }
}

void mix(const Path& path, const float* in, float* out, int64_t n) {
  for (const Mix* m = path.mix; m < path.mix + path.n_mixes; ++m)
    for (int64_t i = 0, tiles = (m->n_out + TILE_ROWS - 1) / TILE_ROWS, rows; tiles; --tiles) {
      rows = (m->n_out - i + tiles - 1) / tiles;
      mix_rows<TILE_ROWS>(*m, i, rows, in, out, n);
      i += rows;
    }
}

// Frames by their symmetries, at W = 4 Q: the even rows of cosines see samples n, 2Q - n, 2Q + n
// and 4Q - n through their sum alone, the others through sums with other signs. That leaves a
// quarter of the multiplications, in four mixes. The sums go where those samples would.
void fold(const Path& path, const float* in, float* to, int64_t n_columns) {
  const int64_t W = path.W, H = W / 2, s = path.stride;
  const float* const w = path.window;
  const auto sample = [&](int64_t n) { return in + path.tap_at[n]; };

  const float *first = sample(0), *middle = sample(H);
  for (int64_t c = 0; c < n_columns; c += LANES) {
    const Floats a = load(first + c) * w[0], b = load(middle + c) * w[H];
    store(to + c, a + b), store(to + H * s + c, a - b);
  }
  const float *early = sample(H / 2), *late = sample(W - H / 2);
  for (int64_t c = 0; c < n_columns; c += LANES) {
    const Floats a = load(early + c) * w[H / 2], b = load(late + c) * w[W - H / 2];
    store(to + H / 2 * s + c, a + b), store(to + (W - H / 2) * s + c, a - b);
  }
  for (int64_t n = 1; n < H / 2; ++n) {
    const float *a = sample(n), *b = sample(H - n), *c = sample(H + n), *d = sample(W - n);
    float* const at = to;
    for (int64_t i = 0; i < n_columns; i += LANES) {
      const Floats first_a = load(a + i) * w[n], first_b = load(b + i) * w[H - n];
      const Floats c_w = load(c + i) * w[H + n], d_w = load(d + i) * w[W - n];
      const Floats even = first_a + d_w, odd = first_a - d_w;
      const Floats even_2 = first_b + c_w, odd_2 = first_b - c_w;
      store(at + n * s + i, even + even_2), store(at + (H - n) * s + i, even - even_2);
      store(at + (H + n) * s + i, odd - odd_2), store(at + (W - n) * s + i, odd + odd_2);
    }
  }
}

// The transpose of fold, in place.
void unfold(const Path& path, float* rows, int64_t n_columns) {
  const int64_t W = path.W, H = W / 2, s = path.stride;
  const float* const w = path.window;
  const auto pair = [&](int64_t n, int64_t m) {
    float *a = rows + n * s, *b = rows + m * s;
    for (int64_t c = 0; c < n_columns; c += LANES) {
      const Floats x = load(a + c), y = load(b + c);
      store(a + c, (x + y) * w[n]), store(b + c, (x - y) * w[m]);
    }
  };
  pair(0, H), pair(H / 2, W - H / 2);
  for (int64_t n = 1; n < H / 2; ++n) {
    float *a = rows + n * s, *b = rows + (H - n) * s;
    float *c = rows + (H + n) * s, *d = rows + (W - n) * s;
    for (int64_t i = 0; i < n_columns; i += LANES) {
      const Floats A = load(a + i), B = load(b + i), D = load(c + i), E = load(d + i);
      const Floats even = A + B, even_2 = A - B, odd = E + D, odd_2 = E - D;
      store(a + i, (even + odd) * w[n]), store(d + i, (even - odd) * w[W - n]);
      store(b + i, (even_2 + odd_2) * w[H - n]), store(c + i, (even_2 - odd_2) * w[H + n]);
    }
  }
}

#if defined(__AVX512F__)
#define TSGEN_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define TSGEN_ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define TSGEN_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define TSGEN_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define TSGEN_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define TSGEN_ODD 1, 3, 5, 7, 9, 11, 13, 15
#define TSGEN_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define TSGEN_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define TSGEN_EVEN 0, 2, 4, 6
#define TSGEN_ODD 1, 3, 5, 7
#define TSGEN_LOW 0, 4, 1, 5
#define TSGEN_HIGH 2, 6, 3, 7
#endif

// rows[r, c] = samples[c * hop + r] for n columns and up to LANES - 1 more; hop is a power of 2.
template <int hop>
void split_vectors(const float* samples, float* rows, int64_t stride, int64_t n) {
  for (int64_t c = 0; c < n; c += LANES) {
    Floats x[hop], y[hop];
#pragma GCC unroll 16
    for (int r = 0; r < hop; ++r) x[r] = load(samples + c * hop + r * LANES);
#pragma GCC unroll 4
    for (int stage = 1; stage < hop; stage *= 2) {  // every one parts the even from the odd
#pragma GCC unroll 8
      for (int i = 0; i < hop / 2; ++i) {
        y[i] = __builtin_shufflevector(x[2 * i], x[2 * i + 1], TSGEN_EVEN);
        y[i + hop / 2] = __builtin_shufflevector(x[2 * i], x[2 * i + 1], TSGEN_ODD);
      }
#pragma GCC unroll 16
      for (int r = 0; r < hop; ++r) x[r] = y[r];
    }
#pragma GCC unroll 16
    for (int r = 0; r < hop; ++r) store(rows + r * stride + c, x[r]);
  }
}

// The other way.
template <int hop>
void join_vectors(const float* rows, float* samples, int64_t stride, int64_t n) {
  for (int64_t c = 0; c < n; c += LANES) {
    Floats x[hop], y[hop];
#pragma GCC unroll 16
    for (int r = 0; r < hop; ++r) x[r] = load(rows + r * stride + c);
#pragma GCC unroll 4
    for (int stage = 1; stage < hop; stage *= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < hop / 2; ++i) {
        y[2 * i] = __builtin_shufflevector(x[i], x[i + hop / 2], TSGEN_LOW);
        y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + hop / 2], TSGEN_HIGH);
      }
#pragma GCC unroll 16
      for (int r = 0; r < hop; ++r) x[r] = y[r];
    }
#pragma GCC unroll 16
    for (int r = 0; r < hop; ++r) store(samples + c * hop + r * LANES, x[r]);
  }
}

// Samples to the rows of their phases, rows[r, c] = samples[c * hop + r], and back.
void split(const Path& path, const float* samples, float* rows, int64_t n) {
  const int64_t hop = path.n_phases == path.hop ? path.hop : 0;
  if (hop == 2) return split_vectors<2>(samples, rows, path.stride, n);
  if (hop == 4) return split_vectors<4>(samples, rows, path.stride, n);
  if (hop == 8) return split_vectors<8>(samples, rows, path.stride, n);
  if (hop == 16) return split_vectors<16>(samples, rows, path.stride, n);
  for (int64_t c = 0; c < n; ++c)
    for (int64_t r = 0; r < path.n_phases; ++r)
      rows[r * path.stride + c] = samples[c * path.hop + r];
}

void join(const Path& path, const float* rows, float* samples, int64_t n) {
  const int64_t hop = path.n_phases == path.hop ? path.hop : 0;
  if (hop == 2) return join_vectors<2>(rows, samples, path.stride, n);
  if (hop == 4) return join_vectors<4>(rows, samples, path.stride, n);
  if (hop == 8) return join_vectors<8>(rows, samples, path.stride, n);
  if (hop == 16) return join_vectors<16>(rows, samples, path.stride, n);
  for (int64_t c = 0; c < n; ++c)
    for (int64_t r = 0; r < path.hop; ++r)
      samples[c * path.hop + r] = r < path.n_phases ? rows[r * path.stride + c] : 0.0f;
}

// Zeros in columns [begin, end) of every row of frames, and in up to LANES - 1 behind them.
void clear(const Path& path, float* frames, int64_t begin, int64_t end) {
  if (begin >= end) return;
  for (int64_t tap = 0; tap < path.W; ++tap)
    for (int64_t c = begin; c < end; c += LANES) store(frames + tap * path.stride + c, Floats{});
}

// Phase r of n pieces, each the sum over the frames that reach it; column 0 of `frames` is the
// frame `halo` before the first piece.
void overlap_add(const Path& path, const float* frames, int64_t r, float* to, int64_t n) {
  for (int64_t c = 0; c < n; c += LANES) {
    const float* from = frames + r * path.stride + path.halo + c;
    Floats sum = load(from);
    for (int64_t tap = r + path.hop; tap < path.W; tap += path.hop)
      sum += load(from += path.hop * path.stride - 1);
    store(to + c, sum);
  }
}

}  // namespace

void samples_to_planes(const Path& path, const float* samples, float* planes, float* scratch) {
  float* const folded = scratch + path.n_phases * path.stride;
  const int64_t width = section(path.T);
  for (int64_t t = 0; t < path.T; t += width) {
    const int64_t end = least(t + width, path.T);
    const int64_t start = least(t, most(end - LANES, 0)), n = end - start;
    const float* in = samples + start;
    if (path.hop > 1) split(path, samples + start * path.hop, scratch, n + path.halo), in = scratch;
    if (path.window) fold(path, in, folded, n), in = folded;
    mix(path, in, planes + start, n);
  }
}

void planes_to_samples(const Path& path, const float* planes, float* samples, float* scratch) {
  float* const phases = scratch + path.W * path.stride;
  float* const frames = scratch + SLACK;
  const int64_t n_pieces = path.T + path.halo, width = section(n_pieces);
  for (int64_t q = 0; q < n_pieces; q += width) {
    const int64_t n = least(width, n_pieces - q), origin = q - path.halo;
    const int64_t end = least(q + n, path.T);
    const int64_t start = least(most(origin, 0), most(end - LANES, 0));
    clear(path, frames, 0, -origin);  // no frames before the first
    mix(path, planes + start, frames + start - origin, end - start);
    if (path.window) unfold(path, frames + start - origin, end - start);
    clear(path, frames, end - origin, q + n - origin);  // no frames after the last
    if (path.hop == 1) {
      overlap_add(path, frames, 0, samples + q, n);
    } else {
      for (int64_t r = 0; r < path.n_phases; ++r)
        overlap_add(path, frames, r, phases + r * path.stride, n);
      join(path, phases, samples + q * path.hop, n);
    }
  }
}

void multiply(const float* a, const float* b, float* out, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(out + i, load(a + i) * load(b + i));
  if (i < n) store_first(out + i, load_first(a + i, n - i) * load_first(b + i, n - i), n - i);
}

}  // namespace tsgen::cpu::TSGEN_ISA
