// One band's encoder and codebook: a series to token ids, on the CPU's ops. See tsgen/tokenizer.py.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "model/config.h"
#include "model/tensors.h"
#include "simd/separable_conv.h"

namespace tsgen {

struct Image {
  int64_t B, C, H, W;
  Floats values;
};

// A Snake, with the gain and shift of a normalisation before it, or none.
struct Activation {
  Floats a, gain, shift;

  Activation(const Scope& snake, int64_t C, bool normalised);
  void apply(Image& x, int64_t n_threads) const;
};

// A convolution of each channel by itself, or none, and the product after it.
struct Convolution {
  cpu::Taps kind;
  int64_t C, O, kernel_rows;
  Floats taps, tap_bias, weight, bias;

  Convolution(const Scope* depthwise, const Scope& pointwise, cpu::Taps kind, int64_t C, int64_t O,
              int64_t kernel_rows);
  Image of(const Image& x, const Activation* before, int64_t n_threads) const;
};

struct DownBlock {
  Convolution conv;
  Activation snake;

  DownBlock(const Scope& block, int64_t C, int64_t O, int64_t kernel_rows);
};

struct ResBlock {
  Activation snake_in;
  Convolution conv_in;
  Activation snake_out;
  Convolution conv_out;
  std::optional<Convolution> skip;

  ResBlock(const Scope& block, int64_t C, int64_t O, int64_t kernel_rows);
  Image of(const Image& x, int64_t n_threads) const;
};

class Encoder {
 public:
  Encoder(const TokenizerConfig& config, int64_t band, const Scope& tokenizer);

  // x (n, C, inner_length), scaled as in training; ids (n, n_tokens)
  void encode(const float* x, int64_t n, int64_t n_threads, int64_t* ids) const;

 private:
  // The latents in the codes' own space: (n * n_tokens, code_dim).
  Floats down(const Image& latents, int64_t n_threads) const;

  TokenizerConfig config_;
  int64_t band_;
  Floats window_, codes_, project_weight_, project_bias_;
  struct Stage {
    DownBlock down;
    std::vector<ResBlock> blocks;
  };
  std::vector<Stage> stages_;
  std::optional<ResBlock> last_;
};

}  // namespace tsgen
