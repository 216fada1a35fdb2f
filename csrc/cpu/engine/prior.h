// The prior of one band as the engine holds it, and the request that a task works on.
//
// Sizes as in tsgen/config.py: N tokens, T = N + 1 with the class, D width, H heads of Dh dims,
// I = H Dh, F feed-forward, K codes, E2 channels between the context's convolutions.
#pragma once

#include <cstdint>

#include "engine/arena.h"
#include "machine/isa.h"

namespace tsgen::cpu {

struct PriorSizes {
  int64_t N, D, H, Dh, F, K, n_layers, n_classes;
  // the context: none where n_low is 0
  int64_t n_low, K_low, E2, n_columns, taps_in, taps_out, dilation, n_maps;
};

constexpr int64_t MOST_LANES = 64;  // zeros that attention wants behind its scale

// One transformer block. Matrices are packed for gemm(); a norm is gain and shift; scale is that of
// queries times that of keys.
struct LayerWeights {
  float *norm_in, *q, *kv, *null_k, *null_v, *scale, *out, *norm_out;
  float *norm_ff, *up, *norm_mid, *down;
};

struct PriorWeights {
  PriorSizes sizes;
  float *tokens, *places, *classes;  // (K + 1, D), (N, D), (n_classes + 1, D)
  LayerWeights* layer;               // (n_layers)
  float *head_in, *head_in_bias, *head_norm, *head, *head_bias;
  // context: what each tap of the first convolution makes of each code (taps_in, K_low, E2), its
  // bias, a norm, the second one's taps (each packed, n_maps D outputs), its bias
  float *tables, *bias_in, *norm, *taps, *bias_out;
  // which low token a column stands at (n_columns); which column and map a place takes (N, 2)
  const int64_t *column_token, *place_source;
};

struct Settings {
  int64_t steps, band;
  uint64_t seed;
  double temperature, choice_temperature, guidance;
  int64_t top_k;
  double top_p;
};

// Sequences that are decoded together; each as if it were alone.
struct PriorTask {
  int64_t n;
  const int64_t *index, *class_id;  // (n)
  const int64_t* none;              // (n), n_classes each: the class of who has none
  const int64_t* low;               // (n, n_low) ids of the low band, or null
  const int64_t* plan;              // (n, steps): how many are masked after each step
  int64_t* ids;                     // (n, N), K where to be drawn; drawn when done
};

// Whether to stop; asked once a step. Sampling then ends with ids that mean nothing.
using Stop = bool(const void* asked, int64_t thread);

// Sequences that fit the caches together.
static inline int64_t sequences_at_once(const PriorSizes& sizes) {
  const int64_t rows = 192;
  return sizes.N >= rows ? 1 : rows / (sizes.N + 1);
}

using LayOutPrior = PriorWeights(const PriorSizes& sizes, LayerWeights* layers, Arena& arena);
using PackPrior = void(const PriorWeights& weights, const float* flat);
// Floats of scratch memory for n sequences.
using PriorScratch = int64_t(const PriorSizes& sizes, int64_t n);
// hidden[n, d] of every position of a sequence that is all masked, with this class and no context.
using PriorStart = void(const PriorWeights& weights, int64_t class_id, float* scratch,
                        float* hidden_ND);
// Draws all of a task's tokens. start (n_classes + 1, N, D) from prior_start, or null.
// Returns false if a logit was not finite.
using PriorDecode = bool(const PriorWeights& weights, const Settings& settings,
                         const PriorTask& task, const float* start, float* scratch, Stop* stop,
                         const void* asked, int64_t thread);

TSGEN_EACH_ISA(LayOutPrior lay_out_prior; PackPrior pack_prior; PriorScratch prior_scratch;
               PriorStart prior_start; PriorDecode prior_decode;)

}  // namespace tsgen::cpu
