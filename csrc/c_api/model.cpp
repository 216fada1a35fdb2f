// Models in the C ABI, see tsgen.h.
#include "model/model.h"

#include <algorithm>
#include <cstring>

#include "c_api/call.h"
#include "model/json.h"
#ifdef TSGEN_WITH_CUDA
#include "cuda/engine/engine.h"
#endif

struct tsgen_model {
  tsgen::Model model;
};

namespace {

using namespace tsgen::c_api;
using tsgen::bad_value;

constexpr int64_t MOST_GPUS = 1024;
constexpr int64_t LARGEST_INDEX = (INT64_C(1) << 62) - 1;

#ifdef TSGEN_WITH_CUDA
auto engine_on(tsgen_device device) {
  if (device != TSGEN_CPU) tsgen::cuda::check_device(device - TSGEN_CUDA);
  return
      [device](const tsgen::ModelConfig& config, const tsgen::Tensors& state, int64_t n_threads) {
        if (device == TSGEN_CPU) return tsgen::cpu_engine(config, state, n_threads);
        return tsgen::cuda::make_engine(config, state, n_threads, device - TSGEN_CUDA);
      };
}
#else
auto engine_on(tsgen_device device) {
  if (device != TSGEN_CPU)
    throw tsgen::Unsupported("device: wanted one that this library was built for, got CUDA");
  return tsgen::cpu_engine;
}
#endif

// Fill in the caller's structure, which may be of a newer tsgen.h: what we do not know becomes 0.
template <typename T>
void fill(const char* name, T* to, T from) {
  check_given(name, to);
  const size_t size = to->size;
  if (size < sizeof(T) || size > 65536)
    throw bad_value(name, "its size in `size`, " + std::to_string(sizeof(T)), std::to_string(size));
  std::memset(to, 0, size);
  from.size = size;
  std::memcpy(to, &from, sizeof(T));
}

tsgen::SamplingConfig sampling(const tsgen_settings& s, int64_t bands) {
  const auto* const bytes = reinterpret_cast<const unsigned char*>(&s);
  const bool sized = s.size >= sizeof s && s.size <= 65536;
  // what a newer program asks for would be ignored
  if (!sized || std::any_of(bytes + sizeof s, bytes + s.size, [](int b) { return b != 0; }))
    throw bad_value("settings",
                    "its size in `size`, " + std::to_string(sizeof s) +
                        ", and 0 behind what this library knows",
                    std::to_string(s.size));
  check_range("schedule", s.schedule, TSGEN_COSINE, TSGEN_EXP);
  return {{s.steps, s.steps + bands},
          s.temperature,
          {s.choice_temperature, s.choice_temperature + bands},
          s.guidance,
          (tsgen::Schedule)s.schedule,
          s.top_k,
          s.top_p,
          ""};
}

void check_samples(const tsgen::Model& model, int64_t n, const int64_t* index,
                   const int64_t* class_id) {
  for (int64_t i = 0; i < n && index; ++i) check_range("index", index[i], 0, LARGEST_INDEX);
  const int64_t last = model.config().n_classes - 1;
  for (int64_t i = 0; i < n && class_id; ++i) check_range("class_id", class_id[i], -1, last);
}

int64_t numbers(const tsgen::Model& model) {
  return model.config().tokenizer.n_channels * model.config().tokenizer.length;
}

void check_codes(const tsgen_model* model, int64_t n, const float* series, const int64_t* ids) {
  check_given("model", model);
  check_count("n", n, std::max(numbers(model->model), model->model.n_tokens()));
  check_array("series", series, n), check_array("ids", ids, n);
}

}  // namespace

tsgen_status tsgen_model_load(const char* folder, tsgen_device device, int32_t n_threads,
                              tsgen_model** model) {
  return call([&] {
    check_given("model", model);
    *model = nullptr;
    check_given("folder", folder);
    check_range("device", device, TSGEN_CPU, TSGEN_CUDA + MOST_GPUS - 1);
    *model = new tsgen_model{tsgen::Model(folder, engine_on(device), threads(n_threads))};
  });
}

void tsgen_model_free(tsgen_model* model) { delete model; }

tsgen_status tsgen_model_info(const tsgen_model* model, tsgen_info* info) {
  return call([&] {
    check_given("model", model);
    const tsgen::TokenizerConfig& z = model->model.config().tokenizer;
    tsgen_info out{0, z.n_channels, z.length, model->model.config().n_classes, z.bands, {}, {}};
    for (int64_t band = 0; band < z.bands; ++band)
      out.n_tokens[band] = z.n_tokens(band), out.n_codes[band] = z.n_codes[band];
    fill("info", info, out);
  });
}

const char* tsgen_class_name(const tsgen_model* model, int64_t class_id) {
  if (!model || class_id < 0 || class_id >= model->model.config().n_classes) return nullptr;
  return model->model.labels()[class_id].c_str();
}

tsgen_status tsgen_class_id(const tsgen_model* model, const char* name, int64_t* class_id) {
  return call([&] {
    check_given("model", model), check_given("name", name), check_given("class_id", class_id);
    const std::vector<std::string>& labels = model->model.labels();
    const auto found = std::find(labels.begin(), labels.end(), name);
    if (found != labels.end()) {
      *class_id = found - labels.begin();
      return;
    }
    std::string wanted = "one of";
    for (size_t i = 0; i < std::min<size_t>(labels.size(), 20); ++i)
      wanted += " " + tsgen::quoted(labels[i]);
    throw bad_value("name", labels.empty() ? "none: there are no classes" : wanted,
                    tsgen::quoted(name));
  });
}

tsgen_status tsgen_settings_of(const tsgen_model* model, tsgen_settings* settings) {
  return call([&] {
    check_given("model", model);
    const tsgen::SamplingConfig& s = model->model.config().sampling;
    tsgen_settings out{};
    std::copy(s.steps.begin(), s.steps.end(), out.steps);
    std::copy(s.choice_temperature.begin(), s.choice_temperature.end(), out.choice_temperature);
    out.temperature = s.temperature, out.guidance = s.guidance;
    out.schedule = (tsgen_schedule)s.schedule, out.top_k = s.top_k, out.top_p = s.top_p;
    fill("settings", settings, out);
  });
}

tsgen_status tsgen_generate(const tsgen_model* model, int64_t n, const int64_t* index,
                            const int64_t* class_id, uint64_t seed, const tsgen_settings* settings,
                            int32_t n_threads, float* series) {
  return call([&] {
    check_given("model", model), check_count("n", n, numbers(model->model));
    check_array("series", series, n);
    check_samples(model->model, n, index, class_id);
    const tsgen::ModelConfig& config = model->model.config();
    const tsgen::SamplingConfig how =
        settings ? sampling(*settings, config.tokenizer.bands) : config.sampling;
    model->model.generate({n, index, class_id, seed, how}, threads(n_threads), series);
  });
}

tsgen_status tsgen_encode(const tsgen_model* model, int64_t n, const float* series,
                          int32_t n_threads, int64_t* ids) {
  return call([&] {
    check_codes(model, n, series, ids);
    model->model.encode(series, n, threads(n_threads), ids);
  });
}

tsgen_status tsgen_decode(const tsgen_model* model, int64_t n, const int64_t* ids,
                          int32_t n_threads, float* series) {
  return call([&] {
    check_codes(model, n, series, ids);
    model->model.decode(ids, n, threads(n_threads), series);
  });
}
