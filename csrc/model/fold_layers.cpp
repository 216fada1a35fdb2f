// Layers that the tokenizer's encoder and decoder share, folded.
#include "model/fold.h"

namespace tsgen {
namespace {

constexpr double SMALLEST_A = 1e-9;  // as ops/snake.py has it

}  // namespace

Doubles frequencies(const Scope& snake, int64_t C) {
  Doubles a = snake.doubles("a_C", {C});
  for (double& value : a)
    if (value == 0) value = SMALLEST_A;
  return a;
}

void append_snake(Floats& flat, const Scope& snake, int64_t C, bool normalised) {
  append(flat, frequencies(snake, C));
  if (!normalised) return;
  const Affine norm = folded_norm(snake["norm"], C);
  append(flat, norm.gain), append(flat, norm.shift);
}

Doubles taps_first(const Scope& depthwise, int64_t C, int64_t rows, int64_t width) {
  const Doubles weight = depthwise.doubles("weight", {C, 1, rows, width});
  const int64_t n = rows * width;
  Doubles taps(weight.size());
  for (int64_t c = 0; c < C; ++c)
    for (int64_t i = 0; i < n; ++i) taps[i * C + c] = weight[c * n + i];
  return taps;
}

void append_conv(Floats& flat, const Scope& depthwise, const Scope& pointwise, int64_t C, int64_t O,
                 int64_t rows, int64_t width) {
  append(flat, taps_first(depthwise, C, rows, width));
  append(flat, depthwise.doubles("bias", {C}));
  append(flat, pointwise.doubles("weight", {O, C, 1, 1}));
  append(flat, pointwise.doubles("bias", {O}));
}

void append_second_half(Floats& flat, const Scope& block, int64_t C, int64_t rows) {
  append_snake(flat, block["snake_out"], C, true);
  append_conv(flat, block["depthwise_out"], block["pointwise_out"], C, C, rows, 3);
}

void append_res_block(Floats& flat, const Scope& block, int64_t C, int64_t O, int64_t rows) {
  append_snake(flat, block["snake_in"], C, false);
  append_conv(flat, block["depthwise_in"], block["pointwise_in"], C, O, rows, 3);
  append_second_half(flat, block, O, rows);
}

}  // namespace tsgen
