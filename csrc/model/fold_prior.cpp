// A prior's weights, folded: what csrc/cpu/engine/prior.h asks for.
#include <algorithm>
#include <cmath>

#include "model/fold.h"
#include "model/matrix.h"

namespace tsgen {
namespace {

// Gain and shift of a layer norm.
void append_norm(Floats& flat, const Scope& norm, int64_t n) {
  append(flat, norm.doubles("weight", {n}));
  append(flat, norm.doubles("bias", {n}));
}

// One transformer layer.
void append_block(Floats& flat, const Scope& block, const PriorConfig& c) {
  const Scope attention = block["attention"], feed_forward = block["feed_forward"];
  const int64_t D = c.hidden_dim, H = c.n_heads, Dh = c.head_dim, F = c.ff_dim();
  append_norm(flat, attention["norm_in"], D);
  append(flat, attention["qkv"].doubles("weight", {3 * H * Dh, D}));
  append(flat, attention.doubles("null_kv", {2, H, Dh}));
  Doubles scale = attention.doubles("q_scale", {Dh});
  const Doubles k_scale = attention.doubles("k_scale", {Dh});
  for (int64_t d = 0; d < Dh; ++d) scale[d] *= k_scale[d];
  append(flat, scale);
  append(flat, attention["out"].doubles("weight", {D, H * Dh}));
  append_norm(flat, attention["norm_out"], D);
  append_norm(flat, feed_forward["norm_in"], D);
  append(flat, feed_forward["up"].doubles("weight", {F, D}));
  append_norm(flat, feed_forward["norm_mid"], F);
  append(flat, feed_forward["down"].doubles("weight", {D, F}));
}

// What one prior is folded with.
struct Fold {
  const ModelConfig& config;
  int64_t band;
  Scope prior;

  const PriorConfig& own() const { return config.priors[band]; }

  // A vector for every token id of a band: (K, width), or (K + 1, width) with [MASK] last.
  Doubles table(const Scope& module, int64_t K, int64_t width, bool mask) const {
    if (own().free_tables) return module.doubles("free", {K + mask, width});
    const int64_t code_dim = config.tokenizer.code_dim;
    const Scope net = module["net"];
    Doubles x = module.doubles("codes_KD", {K, code_dim});
    int64_t n_in = code_dim;
    for (const int64_t layer : {0, 2, 4}) {
      if (layer) gelu(x);
      x = linear(x, net[layer].doubles("weight", {width, n_in}),
                 net[layer].doubles("bias", {width}), n_in);
      n_in = width;
    }
    const Doubles free = module.doubles("free", {mask, width});
    x.insert(x.end(), free.begin(), free.end());
    return x;
  }

  void append_tables(Floats& flat, const Doubles& weight, int64_t width) const {
    const int64_t D = own().hidden_dim, E = own().embed_dim, K = config.tokenizer.n_codes[band];
    const Doubles embed = table(prior["embed"], K, E, true);
    const Factor last{weight.data() + (width - E), 1, width};  // of what comes in beside a context
    append(flat, product(embed.data(), last, K + 1, D, E));
    const Doubles bias = prior["project_in"].doubles("bias", {D});
    const int64_t N = config.tokenizer.n_tokens(band);
    append(flat, linear(prior["places"].doubles("weight", {N, width}), weight, bias, width));
    append(flat, linear(prior["classes"].doubles("weight", {config.n_classes + 1, width}), weight,
                        bias, width));
  }

  void append_head(Floats& flat) const {
    const int64_t D = own().hidden_dim, K = config.tokenizer.n_codes[band];
    append(flat, prior["head_in"].doubles("weight", {D, D}));
    append(flat, prior["head_in"].doubles("bias", {D}));
    append_norm(flat, prior["head_norm"], D);
    append(flat, table(prior["head"], K, D, false));
    append(flat, prior.doubles("head_bias", {K}));
  }
};

// Which of n columns the i-th of `width` shows, as F.interpolate has it.
int64_t stretched(int64_t i, int64_t n, int64_t width) { return i * n / width; }

// Where the context goes: columns of low tokens, and the column and map of every place.
void place_context(FoldedPrior& out, const ModelConfig& config, int64_t finer) {
  const TokenizerConfig& tokenizer = config.tokenizer;
  const int64_t M = out.sizes.n_low, width = tokenizer.n_columns(1);
  for (int64_t i = 0; i < out.sizes.n_columns; ++i)
    out.column_token.push_back(config.aligned ? i : stretched(i, M, out.sizes.N));
  for (int64_t i = 0; i < out.sizes.N; ++i) {
    const int64_t place = config.aligned ? stretched(i % width, M * finer, width) : i;
    out.place_source.push_back(place / finer);
    out.place_source.push_back(config.aligned ? place % finer + i / width * finer : 0);
  }
}

// The context's second convolution and the input projection in one: a linear map for each row and
// each place between two low tokens.    weight (D, width) of the projection, its first E columns
void append_projected(Floats& flat, const Fold& fold, const Doubles& weight, int64_t width,
                      int64_t n_rows, int64_t finer, int64_t taps) {
  const int64_t D = fold.own().hidden_dim, E = fold.own().embed_dim, E2 = 2 * E;
  const int64_t maps = n_rows * finer, inner = finer * E2 * taps;
  const Scope conv = fold.prior["context"]["conv_out"];
  const Doubles kernel =
      conv.doubles("weight", {maps * E, E2, taps});  // (rows, E, finer, 2E, taps)
  const Doubles kernel_bias = conv.doubles("bias", {maps * E});
  Doubles first(D * E);
  for (int64_t d = 0; d < D; ++d) std::copy_n(&weight[d * width], E, &first[d * E]);
  Doubles mapped(taps * maps * D * E2), bias(maps * D);
  for (int64_t r = 0; r < n_rows; ++r) {
    const Factor part{kernel.data() + r * E * inner, inner, 1};
    const Doubles all = product(first.data(), part, D, inner, E);
    for (int64_t d = 0; d < D; ++d)
      for (int64_t f = 0; f < finer; ++f)
        for (int64_t i = 0; i < E2; ++i)
          for (int64_t t = 0; t < taps; ++t)
            mapped[((t * maps + r * finer + f) * D + d) * E2 + i] =
                all[d * inner + (f * E2 + i) * taps + t];
    const Factor part_bias{kernel_bias.data() + r * E * finer, finer, 1};
    const Doubles all_bias = product(first.data(), part_bias, D, finer, E);
    for (int64_t d = 0; d < D; ++d)
      for (int64_t f = 0; f < finer; ++f) bias[(r * finer + f) * D + d] = all_bias[d * finer + f];
  }
  append(flat, mapped);
  append(flat, bias);
}

// The context: its first convolution as tables of the codes, its second one and W as one.
void append_context(FoldedPrior& out, const Fold& fold, const Doubles& weight, int64_t width) {
  const ModelConfig& config = fold.config;
  const TokenizerConfig& tokenizer = config.tokenizer;
  const int64_t M = tokenizer.n_tokens(0), K = tokenizer.n_codes[0];
  const int64_t E = fold.own().embed_dim, E2 = 2 * E, taps = config.aligned ? 3 : 7;
  const double ratio = (double)tokenizer.n_columns(1) / (double)M;
  const int64_t finer = config.aligned ? std::max<int64_t>(1, (int64_t)std::nearbyint(ratio)) : 1;
  const int64_t n_rows = config.aligned ? tokenizer.n_rows(1) : 1;
  cpu::PriorSizes& z = out.sizes;
  z.n_low = M, z.K_low = K, z.E2 = E2, z.n_columns = config.aligned ? M : z.N;
  z.taps_in = z.taps_out = taps, z.dilation = config.aligned ? 1 : 2, z.n_maps = n_rows * finer;

  const Scope context = fold.prior["context"];
  const Doubles embed = fold.table(context["embed"], K, E, false);
  const Doubles kernel = context["conv_in"].doubles("weight", {E2, E, taps});
  for (int64_t t = 0; t < taps; ++t) {
    const Factor tap{kernel.data() + t, taps, E * taps};
    append(out.flat, product(embed.data(), tap, K, E2, E));
  }
  append(out.flat, context["conv_in"].doubles("bias", {E2}));
  const Affine norm = folded_norm(context["norm"], E2);
  append(out.flat, norm.gain), append(out.flat, norm.shift);
  append_projected(out.flat, fold, weight, width, n_rows, finer, taps);
  place_context(out, config, finer);
}

}  // namespace

FoldedPrior fold_prior(const ModelConfig& config, int64_t band, const Scope& prior) {
  const Fold fold{config, band, prior};
  const PriorConfig& c = fold.own();
  const int64_t D = c.hidden_dim, width = (band ? 2 : 1) * c.embed_dim;
  FoldedPrior out{};
  out.sizes.N = config.tokenizer.n_tokens(band), out.sizes.K = config.tokenizer.n_codes[band];
  out.sizes.D = D, out.sizes.H = c.n_heads, out.sizes.Dh = c.head_dim, out.sizes.F = c.ff_dim();
  out.sizes.n_layers = c.n_layers, out.sizes.n_classes = config.n_classes;
  const Doubles weight = prior["project_in"].doubles("weight", {D, width});
  fold.append_tables(out.flat, weight, width);
  for (int64_t i = 0; i < c.n_layers; ++i) append_block(out.flat, prior["blocks"][i], c);
  fold.append_head(out.flat);
  if (band) append_context(out, fold, weight, width);
  return out;
}

}  // namespace tsgen
