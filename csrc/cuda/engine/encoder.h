// One band's encoder and codebook on a GPU: series to token ids. See csrc/model/encoder.h.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "cuda/engine/layers.h"
#include "model/config.h"
#include "model/fold.h"

namespace tsgen::cuda {

class Encoder {
 public:
  // folded: as csrc/model/fold_encoder.cpp makes it
  Encoder(const Launch& on, const TokenizerConfig& config, int64_t band, const Floats& folded);

  int64_t scratch(int64_t n) const;  // bytes of device memory for n series
  // Starts ids (n, n_tokens) = those of x (n, C, inner_length), scaled as in training; both on the
  // device, as the memory that is `on.scratch`.
  void encode(const Launch& on, const float* x, int64_t n, int64_t* ids) const;

 private:
  struct Stage {
    Conv down;
    Snake snake;
    std::vector<ResBlock> blocks;
  };
  struct Rooms {
    Images images;
    float* skip;          // an image, if the last block changes width
    float* distance;      // (n tokens)
    void *stft, *search;  // what the ops want
  };

  Rooms lay_out(Room& room, int64_t n) const;
  int64_t most() const;
  const float* latents(const Launch& on, const Images& images, Grid grid) const;

  TokenizerConfig config_;
  int64_t band_;
  Kept kept_;
  const float* window_;
  std::vector<Stage> stages_;
  std::optional<ResBlock> last_;
  const float *skip_ = nullptr, *skip_bias_ = nullptr;  // of the last block, if it changes width
  const float *project_, *project_bias_, *codes_;
  const int64_t* levels_ = nullptr;  // (code_dim), if the codes are a grid
};

}  // namespace tsgen::cuda
