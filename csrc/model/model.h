// A trained model without Python: tokenizer, priors, the data's scale and its labels.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/engine.h"

namespace tsgen {

// Mean and standard deviation of each channel of the training data.
struct Scaler {
  std::vector<double> mean, std;
};

// Samples to draw, all by the same settings.
struct Order {
  int64_t n;
  const int64_t* index;     // (n) absolute sample indices, or null for 0 to n - 1
  const int64_t* class_id;  // (n), -1 for none; or null for none at all
  uint64_t seed;
  SamplingConfig sampling;
};

// Everything but loading is const: many threads may use one model at once.
class Model {
 public:
  // What makes an engine of a saved network's configuration and state.
  using MakeEngine = std::unique_ptr<ModelEngine>(const ModelConfig& config, const Tensors& state,
                                                  int64_t n_threads);

  // Throws FileError for anything but a whole, unaltered model.
  Model(const std::string& folder, const std::function<MakeEngine>& engine, int64_t n_threads);

  const ModelConfig& config() const { return config_; }
  const std::vector<std::string>& labels() const { return labels_; }
  int64_t n_tokens() const;  // of all bands

  // series (n, C, L), in the units of the training data; as tsgen.Model's of the same names.
  void generate(const Order& order, int64_t n_threads, float* series) const;
  void decode(const int64_t* ids, int64_t n, int64_t n_threads, float* series) const;
  // ids (n, n_tokens()), the low band's first
  void encode(const float* series, int64_t n, int64_t n_threads, int64_t* ids) const;

 private:
  void draw(const Order& order, int64_t first, int64_t n, int64_t n_threads, float* series) const;
  Floats scaled(const float* series, int64_t n) const;  // as the encoders take them
  void undo_scale(float* series, int64_t n) const;

  ModelConfig config_;
  Scaler scaler_;
  std::vector<std::string> labels_;
  std::unique_ptr<ModelEngine> engine_;
};

}  // namespace tsgen
