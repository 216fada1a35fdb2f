// The decoder of one band as the engine holds it: token ids to a band's part of a series.
//
// Sizes: a grid of `rows` x `columns` tokens, K codes, `n_stages` halvings of time to undo with
// width[i] channels before the i-th, G planes (2 C), L samples.
#pragma once

#include <cstdint>

#include "engine/arena.h"
#include "machine/isa.h"

namespace tsgen::cpu {

constexpr int64_t MOST_STAGES = 40;

struct DecoderSizes {
  int64_t rows, columns, K, G, L, n_resblocks, n_stages;
  int64_t n_taps;  // plane values that a sample is a sum of, for each of 2 * rows of its frames
  int64_t width[MOST_STAGES];
};

// Kernels reach over rows where there are several.
static inline int64_t kernel_rows(const DecoderSizes& sizes) { return sizes.rows == 1 ? 1 : 3; }

struct SnakeWeights {
  float *a, *gain, *shift;
};

// Convolutions as (taps, channels), rows of the kernel first; products as (outputs, inputs).
struct ResBlockWeights {
  SnakeWeights snake_in;
  float *depthwise_in, *bias_in, *pointwise_in, *point_bias_in;
  SnakeWeights snake_out;
  float *depthwise_out, *bias_out, *pointwise_out, *point_bias_out;
};

struct UpWeights {
  float *spread, *bias, *pointwise, *point_bias;
  SnakeWeights snake;  // null in the last one
};

struct DecoderWeights {
  DecoderSizes sizes;
  // what each tap of the first block makes of each code (taps, K, width[0]) and its bias; what the
  // skip makes of it (K, width[0]); the rest of that block
  float *tables, *table_bias, *skip;
  ResBlockWeights first;
  ResBlockWeights* block;  // (n_stages - 1, n_resblocks)
  UpWeights up[MOST_STAGES];
  float *dense, *dense_bias;    // last doubling of time, (taps, G, G)
  float* sample;                // (L, n_taps, 2 rows): inverse transform and resampling in one
  const int64_t* sample_frame;  // (L): the first frame that a sample hears
};

using LayOutDecoder = DecoderWeights(const DecoderSizes& sizes, ResBlockWeights* blocks,
                                     Arena& arena);
using PackDecoder = void(const DecoderWeights& weights, const float* flat);
using DecoderScratch = int64_t(const DecoderSizes& sizes);
// series (n, G / 2, L) += the band of n <= lane_count() sequences of ids (n, rows * columns)
using Decode = void(const DecoderWeights& weights, const int64_t* ids, int64_t n, float* scratch,
                    float* series);

TSGEN_EACH_ISA(LayOutDecoder lay_out_decoder; PackDecoder pack_decoder;
               DecoderScratch decoder_scratch; Decode decode;)

}  // namespace tsgen::cpu
