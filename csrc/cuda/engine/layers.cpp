#include "cuda/engine/layers.h"

#include "ops_cuda.h"

namespace tsgen::cuda {

Snake::Snake(Flat& flat, int64_t C, bool normalised) : a(flat.next(C)) {
  if (normalised) gain = flat.next(C), shift = flat.next(C);
}

void Snake::apply(const Launch& on, const float* x, float* out, int64_t positions,
                  int64_t C) const {
  snake(on, x, a, gain, shift, out, positions, C, 1);  // a channel has one number at a position
}

Conv::Conv(Flat& flat, Taps kind, int64_t C, int64_t O, int64_t kernel_rows)
    : kind(kind), C(C), O(O), kernel_rows(kernel_rows) {
  taps = flat.next(kernel_rows * (kind == Taps::same ? 3 : 4) * C), tap_bias = flat.next(C);
  weight = flat.next(O * C), bias = flat.next(O);
}

Grid Conv::apply(const Launch& on, const float* x, float* between, const float* added, float* out,
                 Grid grid) const {
  depthwise(on, kind, x, taps, tap_bias, between, grid, C, kernel_rows);
  if (kind == Taps::halve) grid.columns /= 2;
  if (kind == Taps::twice) grid.columns *= 2;
  linear(on, between, weight, {bias, false, added}, out, grid.positions(), O, C);
  return grid;
}

ResBlock::ResBlock(Flat& flat, int64_t C, int64_t O, int64_t kernel_rows)
    : snake_in(flat, C, false),
      conv_in(flat, Taps::same, C, O, kernel_rows),
      snake_out(flat, O, true),
      conv_out(flat, Taps::same, O, O, kernel_rows) {}

void ResBlock::apply(const Launch& on, const Images& images, const float* skip, Grid grid) const {
  const auto [x, h, g] = images;
  snake_in.apply(on, x, h, grid.positions(), conv_in.C);
  conv_in.apply(on, h, g, nullptr, h, grid);
  snake_out.apply(on, h, h, grid.positions(), conv_in.O);
  conv_out.apply(on, h, g, skip, x, grid);
}

}  // namespace tsgen::cuda
