// The decoder of one band on a GPU: token ids to a band's part of a series. Weights are folded as
// for the CPU, see csrc/model/fold.h: the inverse transform and the resampling are one sum.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/engine/layers.h"
#include "model/fold.h"

namespace tsgen::cuda {

class Decoder {
 public:
  Decoder(const Launch& on, const FoldedDecoder& folded);

  int64_t scratch(int64_t n) const;  // bytes of device memory for n series
  // Starts series (n, G / 2, L) = those of ids (n, n_tokens), added to it if not `first`; both on
  // the device, as the memory that is `on.scratch`.
  void decode(const Launch& on, const int64_t* ids, int64_t n, float* series, bool first) const;

 private:
  struct Stage {
    std::vector<ResBlock> blocks;
    Conv up;
    Snake snake;  // none in the last one
  };

  int64_t most() const;
  Images lay_out(Room& room, int64_t n) const;

  cpu::DecoderSizes z_;
  Kept kept_;
  const float *tables_, *table_bias_, *skip_;  // of the first block, which knows codes alone
  Snake first_snake_;
  Conv first_conv_;
  std::vector<Stage> stages_;
  const float *dense_, *dense_bias_, *sample_;
  const int64_t* sample_frame_;
};

}  // namespace tsgen::cuda
