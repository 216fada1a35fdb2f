// Where the decoder's weights are, and how they get there; once per instruction set.
#include "engine/decoder.h"

namespace tsgen::cpu::TSGEN_ISA {

DecoderWeights lay_out_decoder(const DecoderSizes& z, ResBlockWeights* blocks, Arena& arena) {
  const int64_t size = kernel_rows(z), first = z.width[0];
  const auto snakes = [&](int64_t C, bool affine) {
    SnakeWeights w{take(arena, C), nullptr, nullptr};
    if (affine) w.gain = take(arena, C), w.shift = take(arena, C);
    return w;
  };
  const auto res = [&](int64_t C, bool whole) {
    ResBlockWeights w{};
    if (whole) {
      w.snake_in = snakes(C, false);
      w.depthwise_in = take(arena, size * 3 * C), w.bias_in = take(arena, C);
      w.pointwise_in = take(arena, C * C), w.point_bias_in = take(arena, C);
    }
    w.snake_out = snakes(C, true);
    w.depthwise_out = take(arena, size * 3 * C), w.bias_out = take(arena, C);
    w.pointwise_out = take(arena, C * C), w.point_bias_out = take(arena, C);
    return w;
  };
  DecoderWeights w{};
  w.sizes = z, w.block = blocks;
  w.tables = take(arena, size * 3 * z.K * first), w.table_bias = take(arena, first);
  w.skip = take(arena, z.K * first);
  w.first = res(first, false);
  for (int64_t i = 0; i < z.n_stages; ++i) {
    const bool last = i + 1 == z.n_stages;
    const int64_t C = z.width[i], next = last ? z.G : z.width[i + 1];
    for (int64_t r = 0; r < z.n_resblocks && !last; ++r)
      blocks[i * z.n_resblocks + r] = res(C, true);
    UpWeights& up = w.up[i];
    up.spread = take(arena, size * 4 * C), up.bias = take(arena, C);
    up.pointwise = take(arena, next * C), up.point_bias = take(arena, next);
    if (!last) up.snake = snakes(next, true);
  }
  w.dense = take(arena, size * 4 * z.G * z.G), w.dense_bias = take(arena, z.G);
  w.sample = take(arena, z.L * z.n_taps * 2 * z.rows);
  return w;
}

// `flat`: the arrays of lay_out_decoder in its order.
void pack_decoder(const DecoderWeights& w, const float* flat) {
  const DecoderSizes& z = w.sizes;
  const int64_t size = kernel_rows(z), first = z.width[0];
  const auto read = [&](float* to, int64_t n) {
    __builtin_memcpy(to, flat, n * sizeof(float)), flat += n;
  };
  const auto snakes = [&](const SnakeWeights& s, int64_t C) {
    read(s.a, C);
    if (s.gain) read(s.gain, C), read(s.shift, C);
  };
  const auto res = [&](const ResBlockWeights& r, int64_t C) {
    if (r.depthwise_in) {
      snakes(r.snake_in, C);
      read(r.depthwise_in, size * 3 * C), read(r.bias_in, C);
      read(r.pointwise_in, C * C), read(r.point_bias_in, C);
    }
    snakes(r.snake_out, C);
    read(r.depthwise_out, size * 3 * C), read(r.bias_out, C);
    read(r.pointwise_out, C * C), read(r.point_bias_out, C);
  };
  read(w.tables, size * 3 * z.K * first), read(w.table_bias, first), read(w.skip, z.K * first);
  res(w.first, first);
  for (int64_t i = 0; i < z.n_stages; ++i) {
    const bool last = i + 1 == z.n_stages;
    const int64_t C = z.width[i], next = last ? z.G : z.width[i + 1];
    for (int64_t r = 0; r < z.n_resblocks && !last; ++r) res(w.block[i * z.n_resblocks + r], C);
    const UpWeights& up = w.up[i];
    read(up.spread, size * 4 * C), read(up.bias, C);
    read(up.pointwise, next * C), read(up.point_bias, next);
    if (!last) snakes(up.snake, next);
  }
  read(w.dense, size * 4 * z.G * z.G), read(w.dense_bias, z.G);
  read(w.sample, z.L * z.n_taps * 2 * z.rows);
}

}  // namespace tsgen::cpu::TSGEN_ISA
