// Token ids to series, one series a SIMD lane; once per instruction set.
//
// Activations are (position, channel, lane), so every layer is whole vectors whatever its sizes,
// nothing crosses lanes, and what a series becomes does not depend on the others.
#include "engine/decoder.h"

#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int OUTPUTS = 12;
#elif defined(__AVX2__)
constexpr int OUTPUTS = 6;
#else
constexpr int OUTPUTS = 4;
#endif

struct Grid {
  int64_t rows, columns;
};

int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }

// Rows of the kernel that hit the grid around row h: [first, end).
struct Reach {
  int64_t first, end;
};
Reach reach(int64_t h, int64_t rows, int64_t size) {
  if (size == 1) return {0, 1};
  return {h == 0 ? 1 : 0, h == rows - 1 ? 2 : 3};
}

void snake(float* x, const SnakeWeights& w, const float* from, int64_t n_positions, int64_t C) {
  for (int64_t i = 0; i < n_positions; ++i)
    for (int64_t c = 0; c < C; ++c) {
      const int64_t at = (i * C + c) * LANES;
      Floats y = load(from + at);
      if (w.gain) y = y * w.gain[c] + w.shift[c];
      const Floats sine = sine_cosine(y * w.a[c]).sine;
      store(x + at, y + sine * (sine / w.a[c]));
    }
}

// 3 columns (and 3 rows) about each position, zeros outside.
void depthwise(float* to, const float* from, const float* taps, const float* bias, Grid grid,
               int64_t C, int64_t size) {
  for (int64_t h = 0; h < grid.rows; ++h)
    for (int64_t w = 0; w < grid.columns; ++w) {
      const Reach up = reach(h, grid.rows, size);
      const int64_t left = w == 0 ? 1 : 0, right = w == grid.columns - 1 ? 2 : 3;
      for (int64_t c = 0; c < C; ++c) {
        Floats total = all(bias[c]);
        for (int64_t i = up.first; i < up.end; ++i)
          for (int64_t j = left; j < right; ++j) {
            const int64_t at = (h + i - size / 2) * grid.columns + w + j - 1;
            total += load(from + (at * C + c) * LANES) * taps[(i * 3 + j) * C + c];
          }
        store(to + ((h * grid.columns + w) * C + c) * LANES, total);
      }
    }
}

template <int outputs>
void pointwise_tile(float* to, const float* from, const float* weight, const float* bias,
                    const float* added, int64_t n_in) {
  Floats total[outputs];
#pragma GCC unroll 16
  for (int o = 0; o < outputs; ++o) total[o] = all(bias[o]);
  for (int64_t c = 0; c < n_in; ++c) {
    const Floats x = load(from + c * LANES);
#pragma GCC unroll 16
    for (int o = 0; o < outputs; ++o) total[o] += x * weight[o * n_in + c];
  }
#pragma GCC unroll 16
  for (int o = 0; o < outputs; ++o)
    store(to + o * LANES, added ? total[o] + load(added + o * LANES) : total[o]);
}

// to = W from + bias (+ added), at every position.
void pointwise(float* to, const float* from, const float* weight, const float* bias,
               const float* added, int64_t n_positions, int64_t n_in, int64_t n_out) {
  for (int64_t i = 0; i < n_positions; ++i) {
    const float* const x = from + i * n_in * LANES;
    int64_t o = 0;
    const auto tile = [&](auto run, int64_t outputs) {
      for (; o + outputs <= n_out; o += outputs) {
        const int64_t at = (i * n_out + o) * LANES;
        run(to + at, x, weight + o * n_in, bias + o, added ? added + at : nullptr, n_in);
      }
    };
    tile(pointwise_tile<OUTPUTS>, OUTPUTS);
    tile(pointwise_tile<4>, 4);
    tile(pointwise_tile<2>, 2);
    tile(pointwise_tile<1>, 1);
  }
}

// Each column becomes two: the transposed convolution of 4 taps, stride 2, padding 1.
// dense: taps (.., C, C) mix the channels; else taps (.., C) do not.
void spread(float* to, const float* from, const float* taps, const float* bias, Grid grid,
            int64_t C, int64_t size, bool dense) {
  for (int64_t h = 0; h < grid.rows; ++h)
    for (int64_t w = 0; w < 2 * grid.columns; ++w)
      for (int64_t o = 0; o < C; ++o) {
        Floats total = all(bias[o]);
        for (int64_t i = 0; i < size; ++i) {
          const int64_t row = h + size / 2 - i;
          if (row < 0 || row >= grid.rows) continue;
          for (int64_t j = 1 - w % 2; j < 4; j += 2) {  // 2 column - 1 + j = w
            const int64_t column = (w + 1 - j) / 2;
            if (w + 1 - j < 0 || column >= grid.columns) continue;
            const float* const x = from + (row * grid.columns + column) * C * LANES;
            const float* const k = taps + (i * 4 + j) * (dense ? C * C : C);
            if (dense)
              for (int64_t c = 0; c < C; ++c) total += load(x + c * LANES) * k[o * C + c];
            else
              total += load(x + o * LANES) * k[o];
          }
        }
        store(to + ((h * 2 * grid.columns + w) * C + o) * LANES, total);
      }
}

// The first block's first two convolutions and its skip are sums over tables of the codes.
void look_up(const DecoderWeights& w, const int64_t* ids, int64_t n, float* h, float* skip) {
  const DecoderSizes& z = w.sizes;
  const int64_t C = z.width[0], size = kernel_rows(z);
  for (int64_t row = 0; row < z.rows; ++row)
    for (int64_t column = 0; column < z.columns; ++column) {
      const int64_t at = row * z.columns + column;
      const Reach up = reach(row, z.rows, size);
      const int64_t left = column == 0 ? 1 : 0, right = column == z.columns - 1 ? 2 : 3;
      for (int64_t lane = 0; lane < LANES; ++lane) {
        // lanes without a sequence repeat the first one
        const int64_t* const own = ids + (lane < n ? lane : 0) * z.rows * z.columns;
        for (int64_t c = 0; c < C; ++c) {
          float total = w.table_bias[c];
          for (int64_t i = up.first; i < up.end; ++i)
            for (int64_t j = left; j < right; ++j) {
              const int64_t code = own[at + (i - size / 2) * z.columns + j - 1];
              total += w.tables[((i * 3 + j) * z.K + code) * C + c];
            }
          h[(at * C + c) * LANES + lane] = total;
          skip[(at * C + c) * LANES + lane] = w.skip[own[at] * C + c];
        }
      }
    }
}

struct Buffers {
  float *x, *h, *g;
};

// x = x + block(x); h and g are lost.
void res_block(const ResBlockWeights& w, Buffers& b, Grid grid, int64_t C, int64_t size) {
  const int64_t n = grid.rows * grid.columns;
  snake(b.h, w.snake_in, b.x, n, C);
  depthwise(b.g, b.h, w.depthwise_in, w.bias_in, grid, C, size);
  pointwise(b.h, b.g, w.pointwise_in, w.point_bias_in, nullptr, n, C, C);
  snake(b.h, w.snake_out, b.h, n, C);
  depthwise(b.g, b.h, w.depthwise_out, w.bias_out, grid, C, size);
  pointwise(b.x, b.g, w.pointwise_out, w.point_bias_out, b.x, n, C, C);
}

// series[lane, channel, l] += sum over the frames that reach sample l
void to_series(const DecoderWeights& w, const float* planes, int64_t columns, int64_t n,
               float* series) {
  const DecoderSizes& z = w.sizes;
  const int64_t channels = z.G / 2;
  for (int64_t l = 0; l < z.L; ++l) {
    const float* const taps = w.sample + l * z.n_taps * 2 * z.rows;
    for (int64_t c = 0; c < channels; ++c) {
      Floats total{};
      for (int64_t t = 0; t < z.n_taps; ++t) {
        const int64_t frame = w.sample_frame[l] + t;
        if (frame < 0 || frame >= columns) continue;
        for (int64_t row = 0; row < z.rows; ++row) {
          const float* const at = planes + ((row * columns + frame) * z.G + 2 * c) * LANES;
          const float* const k = taps + (t * z.rows + row) * 2;
          total += load(at) * k[0];
          total += load(at + LANES) * k[1];
        }
      }
      for (int64_t lane = 0; lane < n; ++lane)
        series[(lane * channels + c) * z.L + l] += total[lane];
    }
  }
}

// The largest that positions x channels get.
int64_t most(const DecoderSizes& z) {
  int64_t n = z.rows * z.columns, largest = n * z.width[0];
  for (int64_t i = 0; i < z.n_stages; ++i) {
    n *= 2;
    // the pointwise product after the spread has the next width, the spread this one
    largest = larger_of(largest, n * larger_of(z.width[i], z.G));
  }
  return larger_of(largest, 2 * n * z.G);
}

}  // namespace

int64_t decoder_scratch(const DecoderSizes& z) {
  Arena arena;
  for (int i = 0; i < 3; ++i) take(arena, most(z) * LANES);
  return arena.used;
}

void decode(const DecoderWeights& w, const int64_t* ids, int64_t n, float* scratch, float* series) {
  const DecoderSizes& z = w.sizes;
  const int64_t size = kernel_rows(z), first = z.width[0];
  Arena arena{scratch, 0};
  Buffers b;
  b.x = take(arena, most(z) * LANES), b.h = take(arena, most(z) * LANES);
  b.g = take(arena, most(z) * LANES);
  Grid grid{z.rows, z.columns};
  int64_t positions = z.rows * z.columns;

  look_up(w, ids, n, b.h, b.x);
  snake(b.h, w.first.snake_out, b.h, positions, first);
  depthwise(b.g, b.h, w.first.depthwise_out, w.first.bias_out, grid, first, size);
  pointwise(b.x, b.g, w.first.pointwise_out, w.first.point_bias_out, b.x, positions, first, first);

  for (int64_t i = 0; i < z.n_stages; ++i) {
    const bool last = i + 1 == z.n_stages;
    const int64_t C = z.width[i], next = last ? z.G : z.width[i + 1];
    for (int64_t r = 0; r < z.n_resblocks && !last; ++r)
      res_block(w.block[i * z.n_resblocks + r], b, grid, C, size);
    const UpWeights& up = w.up[i];
    spread(b.g, b.x, up.spread, up.bias, grid, C, size, false);
    grid.columns *= 2, positions *= 2;
    pointwise(b.x, b.g, up.pointwise, up.point_bias, nullptr, positions, C, next);
    if (!last) snake(b.x, up.snake, b.x, positions, next);
  }
  spread(b.g, b.x, w.dense, w.dense_bias, grid, z.G, size, true);
  to_series(w, b.g, 2 * grid.columns, n, series);
}

}  // namespace tsgen::cpu::TSGEN_ISA
