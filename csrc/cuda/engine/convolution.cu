// The tokenizer's convolutions and the context's first one: a thread sums up one number.
#include "cuda/engine/kernels.h"
#include "cuda/engine/numbers.cuh"
#include "cuda/machine/functions.cuh"

namespace tsgen::cuda {
namespace {

// A number of an image, channels last.
struct At {
  int c, column, row, n;

  __device__ __forceinline__ At(int i, int rows, int columns, int C)
      : c(i % C), column(i / C % columns), row(i / C / columns % rows), n(i / C / columns / rows) {}
};

__global__ void __launch_bounds__(NUMBER_THREADS)
    context_columns_kernel(const int64_t* low, const int64_t* column_token, const float* tables,
                           const float* bias, const float* gain_shift, float* columns, int n,
                           int n_low, int n_columns, int reach, int taps, int K, int E, int count) {
  const int i = own_number();
  if (i >= count) return;
  const int e = i % E, pitch = n_columns + 2 * reach, b = i / E / pitch;
  const int column = i / E % pitch - reach;
  if (b >= n || column < 0 || column >= n_columns) {
    columns[i] = 0;
    return;
  }
  float sum = bias[e];
  for (int tap = 0; tap < taps; ++tap) {
    const int at = column + tap - taps / 2;
    if (at < 0 || at >= n_columns) continue;
    const int64_t code = low[(int64_t)b * n_low + column_token[at]];
    sum += tables[(tap * (int64_t)K + code) * E + e];
  }
  columns[i] = gelu(sum) * gain_shift[e] + gain_shift[E + e];
}

template <Taps KIND>
__global__ void __launch_bounds__(NUMBER_THREADS)
    depthwise_kernel(const float* x, const float* taps, const float* bias, float* out, int rows,
                     int columns, int out_columns, int C, int kernel_rows, int count) {
  constexpr int WIDTH = KIND == Taps::same ? 3 : 4;
  const int i = own_number();
  if (i >= count) return;
  const At at(i, rows, out_columns, C);
  const float* const image = x + (int64_t)at.n * rows * columns * C + at.c;
  float sum = bias[at.c];
  for (int k = 0; k < kernel_rows; ++k) {
    int row = KIND == Taps::twice ? at.row + kernel_rows / 2 - k : at.row - kernel_rows / 2 + k;
    if (KIND == Taps::halve) row = min(max(row, 0), rows - 1);
    if (row < 0 || row >= rows) continue;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      if (KIND == Taps::twice && (at.column + 1 - j) % 2 != 0) continue;
      int column = KIND == Taps::same    ? at.column - 1 + j
                   : KIND == Taps::halve ? min(max(2 * at.column - 1 + j, 0), columns - 1)
                                         : (at.column + 1 - j) / 2;
      if (column < 0 || column >= columns) continue;
      sum = fmaf(taps[(k * WIDTH + j) * C + at.c], image[(row * columns + column) * C], sum);
    }
  }
  out[i] = sum;
}

__global__ void __launch_bounds__(NUMBER_THREADS)
    spread_dense_kernel(const float* x, const float* taps, const float* bias, float* out, int rows,
                        int columns, int C, int kernel_rows, int count) {
  const int i = own_number();
  if (i >= count) return;
  const At at(i, rows, 2 * columns, C);
  float sum = bias[at.c];
  for (int k = 0; k < kernel_rows; ++k) {
    const int row = at.row + kernel_rows / 2 - k;
    if (row < 0 || row >= rows) continue;
    for (int j = 1 - at.column % 2; j < 4; j += 2) {  // 2 column - 1 + j is the own one
      const int column = (at.column + 1 - j) / 2;
      if (at.column + 1 < j || column >= columns) continue;
      const float* const from = x + (((int64_t)at.n * rows + row) * columns + column) * C;
      const float* const weight = taps + ((k * 4 + j) * C + at.c) * (int64_t)C;
      for (int c = 0; c < C; ++c) sum = fmaf(weight[c], from[c], sum);
    }
  }
  out[i] = sum;
}

__global__ void __launch_bounds__(NUMBER_THREADS)
    look_up_kernel(const int64_t* ids, const float* tables, const float* bias,
                   const float* skip_table, float* out, float* skip, int rows, int columns, int K,
                   int C, int kernel_rows, int count) {
  const int i = own_number();
  if (i >= count) return;
  const At at(i, rows, columns, C);
  const int64_t* const own = ids + (int64_t)at.n * rows * columns;
  float sum = bias[at.c];
  for (int k = 0; k < kernel_rows; ++k) {
    const int row = at.row - kernel_rows / 2 + k;
    if (row < 0 || row >= rows) continue;
    for (int j = 0; j < 3; ++j) {
      const int column = at.column - 1 + j;
      if (column < 0 || column >= columns) continue;
      sum += tables[((k * 3 + j) * (int64_t)K + own[row * columns + column]) * C + at.c];
    }
  }
  out[i] = sum;
  skip[i] = skip_table[own[at.row * columns + at.column] * C + at.c];
}

__global__ void __launch_bounds__(NUMBER_THREADS)
    to_series_kernel(const float* planes, const float* weights, const int64_t* sample_frame,
                     float* series, int rows, int columns, int G, int L, int n_taps, bool first,
                     int count) {
  const int i = own_number();
  if (i >= count) return;
  const int l = i % L, channel = i / L % (G / 2), n = i / L / (G / 2);
  float sum = first ? 0.0f : series[i];
  for (int tap = 0; tap < n_taps; ++tap) {
    const int64_t frame = sample_frame[l] + tap;
    if (frame < 0 || frame >= columns) continue;
    for (int row = 0; row < rows; ++row) {
      const float* const from = planes + (((int64_t)n * rows + row) * columns + frame) * G;
      const float* const weight = weights + (((int64_t)l * n_taps + tap) * rows + row) * 2;
      sum = fmaf(from[2 * channel], weight[0], sum);
      sum = fmaf(from[2 * channel + 1], weight[1], sum);
    }
  }
  series[i] = sum;
}

__global__ void __launch_bounds__(NUMBER_THREADS)
    channels_last_kernel(const float* planes, float* out, int C, int P, int count) {
  const int i = own_number();
  if (i >= count) return;
  const int c = i % C, position = i / C % P, n = i / C / P;
  out[i] = planes[((int64_t)n * C + c) * P + position];
}

}  // namespace

void context_columns(const Launch& on, const int64_t* low, const int64_t* column_token,
                     const float* tables, const float* bias, const float* gain_shift,
                     float* columns, int64_t n, int64_t n_low, int64_t n_columns, int64_t reach,
                     int64_t taps, int64_t K, int64_t E) {
  const int64_t count = (n * (n_columns + 2 * reach) + 2 * reach) * E;
  launch_each(on, context_columns_kernel, count, low, column_token, tables, bias, gain_shift,
              columns, (int)n, (int)n_low, (int)n_columns, (int)reach, (int)taps, (int)K, (int)E);
}

void depthwise(const Launch& on, Taps kind, const float* x, const float* taps, const float* bias,
               float* out, Grid grid, int64_t C, int64_t kernel_rows) {
  const int64_t columns = kind == Taps::halve   ? grid.columns / 2
                          : kind == Taps::twice ? 2 * grid.columns
                                                : grid.columns;
  const auto run = kind == Taps::same    ? depthwise_kernel<Taps::same>
                   : kind == Taps::halve ? depthwise_kernel<Taps::halve>
                                         : depthwise_kernel<Taps::twice>;
  launch_each(on, run, grid.n * grid.rows * columns * C, x, taps, bias, out, (int)grid.rows,
              (int)grid.columns, (int)columns, (int)C, (int)kernel_rows);
}

void spread_dense(const Launch& on, const float* x, const float* taps, const float* bias,
                  float* out, Grid grid, int64_t C, int64_t kernel_rows) {
  launch_each(on, spread_dense_kernel, 2 * grid.positions() * C, x, taps, bias, out, (int)grid.rows,
              (int)grid.columns, (int)C, (int)kernel_rows);
}

void look_up(const Launch& on, const int64_t* ids, const float* tables, const float* bias,
             const float* skip_table, float* out, float* skip, Grid grid, int64_t K, int64_t C,
             int64_t kernel_rows) {
  launch_each(on, look_up_kernel, grid.positions() * C, ids, tables, bias, skip_table, out, skip,
              (int)grid.rows, (int)grid.columns, (int)K, (int)C, (int)kernel_rows);
}

void to_series(const Launch& on, const float* planes, const float* weights,
               const int64_t* sample_frame, float* series, Grid grid, int64_t G, int64_t L,
               int64_t n_taps, bool first) {
  launch_each(on, to_series_kernel, grid.n * (G / 2) * L, planes, weights, sample_frame, series,
              (int)grid.rows, (int)grid.columns, (int)G, (int)L, (int)n_taps, first);
}

void channels_last(const Launch& on, const float* planes, float* out, int64_t n, int64_t C,
                   int64_t P) {
  launch_each(on, channels_last_kernel, n * C * P, planes, out, (int)C, (int)P);
}

}  // namespace tsgen::cuda
