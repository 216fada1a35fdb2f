// Where a prior's weights are, and how they get there; once per instruction set.
#include "engine/prior.h"
#include "simd/gemm.h"

namespace tsgen::cpu::TSGEN_ISA {

PriorWeights lay_out_prior(const PriorSizes& z, LayerWeights* layers, Arena& arena) {
  const int64_t I = z.H * z.Dh, width = z.n_maps * z.D;
  PriorWeights w{};
  w.sizes = z, w.layer = layers;
  w.tokens = take(arena, (z.K + 1) * z.D), w.places = take(arena, z.N * z.D);
  w.classes = take(arena, (z.n_classes + 1) * z.D);
  for (int64_t l = 0; l < z.n_layers; ++l) {
    LayerWeights& layer = layers[l];
    layer.norm_in = take(arena, 2 * z.D);
    layer.q = take(arena, packed_size(I, z.D)), layer.kv = take(arena, packed_size(2 * I, z.D));
    layer.null_k = take(arena, I), layer.null_v = take(arena, I);
    layer.scale = take(arena, z.Dh + MOST_LANES);
    layer.out = take(arena, packed_size(z.D, I)), layer.norm_out = take(arena, 2 * z.D);
    layer.norm_ff = take(arena, 2 * z.D), layer.up = take(arena, packed_size(z.F, z.D));
    layer.norm_mid = take(arena, 2 * z.F), layer.down = take(arena, packed_size(z.D, z.F));
  }
  w.head_in = take(arena, packed_size(z.D, z.D)), w.head_in_bias = take(arena, z.D);
  w.head_norm = take(arena, 2 * z.D);
  w.head = take(arena, packed_size(z.K, z.D)), w.head_bias = take(arena, z.K);
  if (z.n_low) {
    w.tables = take(arena, z.taps_in * z.K_low * z.E2), w.bias_in = take(arena, z.E2);
    w.norm = take(arena, 2 * z.E2);
    w.taps = take(arena, z.taps_out * packed_size(width, z.E2)), w.bias_out = take(arena, width);
  }
  return w;
}

// `flat`: the arrays of lay_out_prior in its order, matrices as (outputs, inputs), q before kv.
void pack_prior(const PriorWeights& w, const float* flat) {
  const PriorSizes& z = w.sizes;
  const int64_t I = z.H * z.Dh, width = z.n_maps * z.D;
  const auto plain = [&](float* to, int64_t n) {
    __builtin_memcpy(to, flat, n * sizeof(float)), flat += n;
  };
  const auto matrix = [&](float* to, int64_t N, int64_t K) {
    pack(flat, 1, K, N, K, to), flat += N * K;
  };
  plain(w.tokens, (z.K + 1) * z.D), plain(w.places, z.N * z.D);
  plain(w.classes, (z.n_classes + 1) * z.D);
  for (int64_t l = 0; l < z.n_layers; ++l) {
    const LayerWeights& layer = w.layer[l];
    plain(layer.norm_in, 2 * z.D), matrix(layer.q, I, z.D), matrix(layer.kv, 2 * I, z.D);
    plain(layer.null_k, I), plain(layer.null_v, I);
    plain(layer.scale, z.Dh);
    matrix(layer.out, z.D, I), plain(layer.norm_out, 2 * z.D), plain(layer.norm_ff, 2 * z.D);
    matrix(layer.up, z.F, z.D), plain(layer.norm_mid, 2 * z.F), matrix(layer.down, z.D, z.F);
  }
  matrix(w.head_in, z.D, z.D), plain(w.head_in_bias, z.D), plain(w.head_norm, 2 * z.D);
  matrix(w.head, z.K, z.D), plain(w.head_bias, z.K);
  if (!z.n_low) return;
  plain(w.tables, z.taps_in * z.K_low * z.E2), plain(w.bias_in, z.E2), plain(w.norm, 2 * z.E2);
  for (int64_t tap = 0; tap < z.taps_out; ++tap)
    matrix(w.taps + tap * packed_size(width, z.E2), width, z.E2);
  plain(w.bias_out, width);
}

}  // namespace tsgen::cpu::TSGEN_ISA
