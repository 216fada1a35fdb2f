// A model's configuration as tsgen/config.py has it: what decides sizes and sampling.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/json.h"

namespace tsgen {

// Training's own settings are checked and forgotten.
struct TokenizerConfig {
  int64_t n_channels, length, bands, n_fft;
  std::vector<int64_t> token_width;
  int64_t init_dim, max_dim, hidden_dim, n_resblocks;
  std::vector<int64_t> n_codes;
  int64_t code_dim;
  bool cosine;
  std::vector<int64_t> levels;  // that each number of a code has, for codes that are a grid (FSQ)

  int64_t hop() const;
  int64_t inner_length() const;  // of the series that is transformed
  int64_t n_frames() const;
  int64_t first_row(int64_t band) const;
  int64_t n_rows(int64_t band) const;
  int64_t n_halvings(int64_t band) const;
  int64_t n_columns(int64_t band) const;  // of the tokens' grid
  int64_t n_tokens(int64_t band) const;
  std::vector<int64_t> stage_widths(int64_t band) const;  // channels after each halving
};

struct PriorConfig {
  int64_t embed_dim, hidden_dim, n_layers, n_heads, head_dim;
  double ff_mult;
  bool free_tables;  // a token's vectors are its own, not a function of its code

  int64_t ff_dim() const;
};

enum class Schedule { cosine, linear, square, cubic, sqrt, log, exp };

struct SamplingConfig {
  std::vector<int64_t> steps;
  double temperature;
  std::vector<double> choice_temperature;
  double guidance;
  Schedule schedule;
  int64_t top_k;
  double top_p;
  std::string dtype;  // of a GPU's products; empty: as the weights
};

struct ModelConfig {
  TokenizerConfig tokenizer;
  std::vector<PriorConfig> priors;
  int64_t n_classes;
  bool aligned;  // the high band's tokens see low ones at their own time
  SamplingConfig sampling;
};

// Throw std::invalid_argument for anything unknown, missing or out of range; Unsupported for what
// only Python has.
ModelConfig parse_config(const Json& values);
void check(const SamplingConfig& sampling, int64_t bands);

// The Hann window, scaled so that the transform of white noise is as loud as the noise.
std::vector<float> stft_window(int64_t n_fft);

}  // namespace tsgen
