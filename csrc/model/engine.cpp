#include "model/engine.h"

#include <algorithm>

#include "model/encoder.h"
#include "model/fold.h"

namespace tsgen {
namespace {

constexpr int64_t ENCODED = 64;  // series at once: planes of every layer take memory

class CpuEngine : public ModelEngine {
 public:
  CpuEngine(const ModelConfig& config, const Tensors& state, int64_t n_threads)
      : config_(config.tokenizer) {
    const Folded folded = fold(config, state, n_threads);
    for (const FoldedPrior& p : folded.priors)
      engine_.add_prior(p.sizes, p.flat.data(), (int64_t)p.flat.size(), p.column_token.data(),
                        p.place_source.data());
    for (const FoldedDecoder& d : folded.decoders)
      engine_.add_decoder(d.sizes, d.flat.data(), (int64_t)d.flat.size(), d.sample_frame.data());
    for (int64_t band = 0; band < config_.bands; ++band)
      encoders_.emplace_back(config_, band, Scope(state)["tokenizer"]);
  }

  // some for every thread, few enough for the memory of their plans
  int64_t at_once(int64_t n_threads) const override { return 64 * std::max<int64_t>(4, n_threads); }

  cpu::Outcome sample(const cpu::EngineRequest& request, int64_t n_threads, cpu::Stop* stop,
                      const void* asked) const override {
    return engine_.sample(request, n_threads, stop, asked);
  }

  void decode(const std::vector<const int64_t*>& ids, int64_t n, float* series,
              int64_t n_threads) const override {
    engine_.decode(ids, n, series, n_threads);
  }

  void encode(const float* x, int64_t n, const std::vector<int64_t*>& ids,
              int64_t n_threads) const override {
    const int64_t each = config_.n_channels * config_.inner_length();
    for (int64_t first = 0; first < n; first += ENCODED)
      for (int64_t band = 0; band < config_.bands; ++band)
        encoders_[band].encode(x + first * each, std::min(ENCODED, n - first), n_threads,
                               ids[band] + first * config_.n_tokens(band));
  }

 private:
  TokenizerConfig config_;
  cpu::Engine engine_;
  std::vector<Encoder> encoders_;
};

}  // namespace

std::unique_ptr<ModelEngine> cpu_engine(const ModelConfig& config, const Tensors& state,
                                        int64_t n_threads) {
  return std::make_unique<CpuEngine>(config, state, n_threads);
}

}  // namespace tsgen
