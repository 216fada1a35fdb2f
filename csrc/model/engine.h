// What computes a model's numbers: the CPU (engine.cpp) or a GPU (csrc/cuda/engine).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/engine.h"
#include "model/config.h"
#include "model/tensors.h"

namespace tsgen {

// Everything is const: many threads may use one at once. All arrays are the host's; series are
// scaled as in training; what is computed for a series does not depend on the others.
class ModelEngine {
 public:
  virtual ~ModelEngine() = default;

  // Series that it likes to get together.
  virtual int64_t at_once(int64_t n_threads) const = 0;

  // Tokens of every band, and series where they are asked for. stop: see cpu::Engine.
  virtual cpu::Outcome sample(const cpu::EngineRequest& request, int64_t n_threads, cpu::Stop* stop,
                              const void* asked) const = 0;
  // ids (n, n_tokens) of each band; series (n, C, length)
  virtual void decode(const std::vector<const int64_t*>& ids, int64_t n, float* series,
                      int64_t n_threads) const = 0;
  // x (n, C, inner_length); ids (n, n_tokens) of each band
  virtual void encode(const float* x, int64_t n, const std::vector<int64_t*>& ids,
                      int64_t n_threads) const = 0;
};

// Throw std::invalid_argument for tensors that are not those of `config`.
std::unique_ptr<ModelEngine> cpu_engine(const ModelConfig& config, const Tensors& state,
                                        int64_t n_threads);

}  // namespace tsgen
