#include "model/model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/error.h"
#include "model/fields.h"
#include "model/folder.h"
#include "model/schedule.h"

namespace tsgen {
namespace {

Scaler parse_scaler(const Json& values, int64_t n_channels) {
  Fields fields(values, "scaler");
  Scaler scaler{fields.numbers("mean", {}), fields.numbers("std", {})};
  fields.end();
  if ((int64_t)scaler.mean.size() != n_channels || scaler.std.size() != scaler.mean.size())
    throw bad_value("scaler", std::to_string(n_channels) + " channels",
                    std::to_string(scaler.mean.size()));
  for (const double std : scaler.std) check_number("std", std, 0, INFINITY, true);
  return scaler;
}

std::vector<std::string> parse_labels(const Json& values, int64_t n_classes) {
  std::vector<std::string> names;
  if (values.kind != Json::Kind::null) {
    Fields fields(values, "labels");
    for (const Json& name : fields.required("names").items) {
      if (name.kind != Json::Kind::text) throw bad_value("labels", "texts", name.shown());
      names.push_back(name.text);
    }
    fields.end();
  }
  std::vector<std::string> sorted(names);
  std::sort(sorted.begin(), sorted.end());
  const bool twice = std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end();
  if ((int64_t)names.size() != n_classes || twice)
    throw bad_value("labels", std::to_string(n_classes) + " names, each once",
                    std::to_string(names.size()) + (twice ? ", one of them twice" : ""));
  return names;
}

}  // namespace

Model::Model(const std::string& folder, const std::function<MakeEngine>& engine,
             int64_t n_threads) {
  const Saved saved = read_folder(folder);
  try {
    Fields fields(saved.config, "config");
    config_ = parse_config(fields.required("model"));
    scaler_ = parse_scaler(fields.required("scaler"), config_.tokenizer.n_channels);
    labels_ = parse_labels(fields.required("labels"), config_.n_classes);
    fields.end();
    engine_ = engine(config_, saved.tensors, n_threads);
  } catch (const std::invalid_argument& error) {
    throw FileError(folder + ": wanted a tsgen model, got a damaged one: " + error.what());
  }
}

int64_t Model::n_tokens() const {
  int64_t n = 0;
  for (int64_t band = 0; band < config_.tokenizer.bands; ++band)
    n += config_.tokenizer.n_tokens(band);
  return n;
}

void Model::generate(const Order& order, int64_t n_threads, float* series) const {
  const std::string& dtype = order.sampling.dtype;
  if (!dtype.empty() && dtype != "float32")
    throw Unsupported("dtype: wanted float32, got " + dtype);
  check(order.sampling, config_.tokenizer.bands);
  const int64_t step = engine_->at_once(n_threads);
  const int64_t each = config_.tokenizer.n_channels * config_.tokenizer.length;
  for (int64_t first = 0; first < order.n; first += step)
    draw(order, first, std::min(step, order.n - first), n_threads, series + first * each);
}

// The n series of an order from its `first` on.
void Model::draw(const Order& order, int64_t first, int64_t n, int64_t n_threads,
                 float* series) const {
  std::vector<int64_t> index(n), class_id(n, config_.n_classes);
  std::iota(index.begin(), index.end(), first);
  if (order.index) std::copy_n(order.index + first, n, index.begin());
  for (int64_t i = 0; i < n && order.class_id; ++i)
    if (order.class_id[first + i] >= 0) class_id[i] = order.class_id[first + i];
  const int64_t bands = config_.tokenizer.bands;
  std::vector<std::vector<int64_t>> plan(bands), ids(bands);
  cpu::EngineRequest request{n, index.data(), class_id.data(), {}, series};
  for (int64_t band = 0; band < bands; ++band) {
    const SamplingConfig& s = order.sampling;
    const int64_t N = config_.tokenizer.n_tokens(band);
    const std::vector<int64_t> counts = masked_counts(s.schedule, s.steps[band], N);
    for (int64_t i = 0; i < n; ++i)
      plan[band].insert(plan[band].end(), counts.begin(), counts.end());
    ids[band].assign(n * N, config_.tokenizer.n_codes[band]);
    const cpu::Settings settings{
        s.steps[band], band,    order.seed, s.temperature, s.choice_temperature[band],
        s.guidance,    s.top_k, s.top_p};
    request.band.push_back({settings, plan[band].data(), ids[band].data()});
  }
  if (engine_->sample(request, n_threads, nullptr, nullptr) != cpu::Outcome::done)
    throw NotFinite("model: wanted finite logits, got NaN or infinity; is it trained?");
  undo_scale(series, n);
}

void Model::decode(const int64_t* ids, int64_t n, int64_t n_threads, float* series) const {
  const TokenizerConfig& z = config_.tokenizer;
  std::vector<std::vector<int64_t>> band_ids(z.bands);
  std::vector<const int64_t*> bands;
  const int64_t step = engine_->at_once(n_threads), all = n_tokens();
  for (int64_t i = 0; i < n * all; ++i) {
    const int64_t band = i % all >= z.n_tokens(0), K = z.n_codes[band];
    if (ids[i] < 0 || ids[i] >= K)
      throw bad_value("ids", "0 to " + std::to_string(K - 1) + " in band " + std::to_string(band),
                      std::to_string(ids[i]));
  }
  for (int64_t first = 0; first < n; first += step) {
    const int64_t part = std::min(step, n - first);
    bands.clear();
    for (int64_t band = 0, at = 0; band < z.bands; at += z.n_tokens(band++)) {
      const int64_t N = z.n_tokens(band);
      band_ids[band].resize(part * N);
      for (int64_t i = 0; i < part; ++i)
        std::copy_n(ids + (first + i) * all + at, N, &band_ids[band][i * N]);
      bands.push_back(band_ids[band].data());
    }
    float* const to = series + first * z.n_channels * z.length;
    engine_->decode(bands, part, to, n_threads);
    undo_scale(to, part);
  }
}

// (n, C, inner_length) in float32: as data.py's Scaler has it, a short one held at its end.
Floats Model::scaled(const float* series, int64_t n) const {
  const TokenizerConfig& z = config_.tokenizer;
  const int64_t C = z.n_channels, L = z.length, inner = z.inner_length();
  Floats out(n * C * inner);
  for (int64_t row = 0; row < n * C; ++row)
    for (int64_t l = 0; l < inner; ++l) {
      const float value = series[row * L + std::min(l, L - 1)];
      if (!std::isfinite(value)) throw bad_value("series", "finite numbers", "NaN or infinity");
      const double from_mean = (double)value - scaler_.mean[row % C];
      const float scaled = (float)(from_mean / scaler_.std[row % C]);
      if (!std::isfinite(scaled))
        throw bad_value("series", "numbers near the training data's", std::to_string(value));
      out[row * inner + l] = scaled;
    }
  return out;
}

void Model::encode(const float* series, int64_t n, int64_t n_threads, int64_t* ids) const {
  const TokenizerConfig& z = config_.tokenizer;
  const int64_t all = n_tokens(), step = engine_->at_once(n_threads);
  std::vector<std::vector<int64_t>> own(z.bands);
  for (int64_t first = 0; first < n; first += step) {
    const int64_t part = std::min(step, n - first);
    const Floats x = scaled(series + first * z.n_channels * z.length, part);
    std::vector<int64_t*> bands;
    for (int64_t band = 0; band < z.bands; ++band) {
      own[band].resize(part * z.n_tokens(band));
      bands.push_back(own[band].data());
    }
    engine_->encode(x.data(), part, bands, n_threads);
    for (int64_t band = 0, at = 0; band < z.bands; at += z.n_tokens(band++)) {
      const int64_t N = z.n_tokens(band);
      for (int64_t i = 0; i < part; ++i)
        std::copy_n(&own[band][i * N], N, ids + (first + i) * all + at);
    }
  }
}

// In the data's units, as data.py's Scaler has it: in float64, rounded once.
void Model::undo_scale(float* series, int64_t n) const {
  const int64_t C = config_.tokenizer.n_channels, L = config_.tokenizer.length;
  const auto in_units = [](float scaled, double mean, double std) {
    if (!std::isfinite(scaled))
      throw NotFinite("model: wanted finite series, got NaN or infinity; is it trained?");
    const float value = (float)((double)scaled * std + mean);
    if (std::isfinite(value)) return value;
    throw NotFinite("model: wanted series that float32 can hold, got an overflow");
  };
  for (int64_t row = 0; row < n * C; ++row)
    for (int64_t l = row * L; l < (row + 1) * L; ++l)
      series[l] = in_units(series[l], scaler_.mean[row % C], scaler_.std[row % C]);
}

}  // namespace tsgen
