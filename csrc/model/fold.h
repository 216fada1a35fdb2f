// A network's weights as the native engine takes them, folded in float64.
//
// Everything that is a function of a code, a place or a class becomes a table, and linear maps that
// follow each other become one: a convolution of embeddings is a sum over tables of the codes, the
// context's second convolution and the input projection are one, and so are the decoder's last
// maps, the inverse transform and the resampling after it.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"
#include "model/config.h"
#include "model/tensors.h"

namespace tsgen {

struct FoldedPrior {
  cpu::PriorSizes sizes;
  Floats flat;  // the arrays of lay_out_prior in its order
  std::vector<int64_t> column_token, place_source;
};

struct FoldedDecoder {
  cpu::DecoderSizes sizes;
  Floats flat;  // the arrays of lay_out_decoder in its order
  std::vector<int64_t> sample_frame;
};

// Every sample as a sum over frames: the inverse transform, and the resampling after it.
struct SampleTaps {
  int64_t n_taps;
  Doubles weight;              // (L, n_taps, rows, 2): of real and imaginary parts
  std::vector<int64_t> frame;  // (L): the first one that a sample hears
};

FoldedPrior fold_prior(const ModelConfig& config, int64_t band, const Scope& prior);
FoldedDecoder fold_decoder(const TokenizerConfig& config, int64_t band, const Scope& tokenizer);
SampleTaps sample_taps(const TokenizerConfig& config, int64_t band);

// The whole engine. Throws std::invalid_argument for tensors that are not those of `config`.
void fold(const ModelConfig& config, const Tensors& state, int64_t n_threads, cpu::Engine& engine);

// In float32, behind what is there.
void append(Floats& flat, const Doubles& values);

// Gain and shift (n) that a batch normalisation amounts to once its statistics are fixed.
struct Affine {
  Doubles gain, shift;
};
Affine folded_norm(const Scope& norm, int64_t n);

// Codes (K, code_dim) as they are compared and decoded: of length 1 if cosine.
Doubles compared_codes(const TokenizerConfig& config, int64_t band, const Scope& codebook);

}  // namespace tsgen
