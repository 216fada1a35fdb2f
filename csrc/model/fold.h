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

struct Folded {
  std::vector<FoldedPrior> priors;
  std::vector<FoldedDecoder> decoders;
};

// Every sample as a sum over frames: the inverse transform, and the resampling after it.
struct SampleTaps {
  int64_t n_taps;
  Doubles weight;              // (L, n_taps, rows, 2): of real and imaginary parts
  std::vector<int64_t> frame;  // (L): the first one that a sample hears
};

FoldedPrior fold_prior(const ModelConfig& config, int64_t band, const Scope& prior);
FoldedDecoder fold_decoder(const TokenizerConfig& config, int64_t band, const Scope& tokenizer);
// The arrays of csrc/cuda/engine/encoder.h in their order; the CPU's encoder folds nothing.
Floats fold_encoder(const TokenizerConfig& config, int64_t band, const Scope& tokenizer);
SampleTaps sample_taps(const TokenizerConfig& config, int64_t band);

// All that draws. Throws std::invalid_argument for tensors that are not those of `config`.
Folded fold(const ModelConfig& config, const Tensors& state, int64_t n_threads);

// In float32, behind what is there.
void append(Floats& flat, const Doubles& values);

// Gain and shift (n) that a batch normalisation amounts to once its statistics are fixed.
struct Affine {
  Doubles gain, shift;
};
Affine folded_norm(const Scope& norm, int64_t n);

// A Snake's frequencies (C), 0 as what is closest to it.
Doubles frequencies(const Scope& snake, int64_t C);
// Frequency, and gain and shift of the normalisation where there is one: (C) each.
void append_snake(Floats& flat, const Scope& snake, int64_t C, bool normalised);
// Taps of a convolution of each channel by itself: (rows, width, C) of weight (C, 1, rows, width).
Doubles taps_first(const Scope& depthwise, int64_t C, int64_t rows, int64_t width);
// Such taps, their bias (C), and the product after it, (O, C) and (O).
void append_conv(Floats& flat, const Scope& depthwise, const Scope& pointwise, int64_t C, int64_t O,
                 int64_t rows, int64_t width);
// A residual block but for its skip, and what follows its first product.
void append_res_block(Floats& flat, const Scope& block, int64_t C, int64_t O, int64_t rows);
void append_second_half(Floats& flat, const Scope& block, int64_t C, int64_t rows);

// Codes (K, code_dim) as they are compared and decoded: of length 1 if cosine.
Doubles compared_codes(const TokenizerConfig& config, int64_t band, const Scope& codebook);

}  // namespace tsgen
