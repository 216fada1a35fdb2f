// The layers that the tokenizer's encoder and decoder are made of, on images with channels last.
#pragma once

#include <cstdint>

#include "cuda/engine/kernels.h"
#include "cuda/engine/room.h"

namespace tsgen::cuda {

// x + sin²(a x) / a, of gain x + shift where there is a normalisation; nothing without a.
struct Snake {
  const float *a = nullptr, *gain = nullptr, *shift = nullptr;

  Snake() = default;
  Snake(Flat& flat, int64_t C, bool normalised);
  void apply(const Launch& on, const float* x, float* out, int64_t positions, int64_t C) const;
};

// A convolution of each channel by itself, and the product after it.
struct Conv {
  Taps kind = Taps::same;
  int64_t C = 0, O = 0, kernel_rows = 0;
  const float *taps = nullptr, *tap_bias = nullptr, *weight = nullptr, *bias = nullptr;

  Conv() = default;
  Conv(Flat& flat, Taps kind, int64_t C, int64_t O, int64_t kernel_rows);
  // out = of x (+ added), of whose size `between` is but for the channels; `out` may be x or added.
  // Returns the grid of `out`.
  Grid apply(const Launch& on, const float* x, float* between, const float* added, float* out,
             Grid grid) const;
};

// Three images of room: what goes through the layers, and what they need besides.
struct Images {
  float *x, *h, *g;
};

struct ResBlock {
  Snake snake_in;
  Conv conv_in;
  Snake snake_out;
  Conv conv_out;

  ResBlock(Flat& flat, int64_t C, int64_t O, int64_t kernel_rows);
  // x = block(x) + skip; h and g are lost. skip: an image of its output's size, such as x
  void apply(const Launch& on, const Images& images, const float* skip, Grid grid) const;
};

}  // namespace tsgen::cuda
