// The CUDA engine: both bands' decoding loops, the decoder and the encoder on one GPU, in float32.
#pragma once

#include <cstdint>
#include <memory>

#include "model/engine.h"

namespace tsgen::cuda {

// Throws Unsupported with the reason where no kernel can run on GPU `device`.
void check_device(int64_t device);

// Folds on the CPU, with n_threads, and takes the weights to GPU `device`. Throws Unsupported, and
// std::bad_alloc where its memory is short.
std::unique_ptr<ModelEngine> make_engine(const ModelConfig& config, const Tensors& state,
                                         int64_t n_threads, int64_t device);

}  // namespace tsgen::cuda
