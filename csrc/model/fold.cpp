#include "model/fold.h"

#include <algorithm>
#include <cmath>
#include <exception>

#include "machine/parallel.h"

namespace tsgen {

void append(Floats& flat, const Doubles& values) {
  flat.insert(flat.end(), values.begin(), values.end());
}

Affine folded_norm(const Scope& norm, int64_t n) {
  constexpr double EPS = 1e-5;
  Affine out{norm.doubles("weight", {n}), norm.doubles("bias", {n})};
  const Doubles mean = norm.doubles("running_mean", {n}), var = norm.doubles("running_var", {n});
  for (int64_t i = 0; i < n; ++i) {
    out.gain[i] /= std::sqrt(var[i] + EPS);
    out.shift[i] -= mean[i] * out.gain[i];
  }
  return out;
}

Doubles compared_codes(const TokenizerConfig& config, int64_t band, const Scope& codebook) {
  const int64_t K = config.n_codes[band], D = config.code_dim;
  Doubles codes = codebook.doubles("codes_KD", {K, D});
  for (int64_t k = 0; k < K && config.cosine; ++k) {
    double squares = 0;
    for (int64_t d = 0; d < D; ++d) squares += codes[k * D + d] * codes[k * D + d];
    for (int64_t d = 0; d < D; ++d) codes[k * D + d] /= std::max(std::sqrt(squares), 1e-12);
  }
  return codes;
}

Folded fold(const ModelConfig& config, const Tensors& state, int64_t n_threads) {
  const Scope root(state);
  const int64_t bands = config.tokenizer.bands;
  Folded out{std::vector<FoldedPrior>(bands), std::vector<FoldedDecoder>(bands)};
  std::vector<std::exception_ptr> errors(2 * bands);
  // in one loop, for a pool of threads that others use too: each loop may wait for them
  cpu::parallel_for(2 * bands, n_threads, [&](int64_t task, int64_t) {
    const int64_t band = task % bands;
    try {
      if (task < bands)
        out.priors[band] = fold_prior(config, band, root["priors"][band]);
      else
        out.decoders[band] = fold_decoder(config.tokenizer, band, root["tokenizer"]);
    } catch (...) {
      errors[task] = std::current_exception();
    }
  });
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  return out;
}

}  // namespace tsgen
