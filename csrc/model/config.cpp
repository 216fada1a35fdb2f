#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "model/error.h"
#include "model/fields.h"

namespace tsgen {
namespace {

const double ONE_TOO = std::nextafter(1.0, 2.0);  // `below` this: 1 is allowed

void check_each(const char* name, const std::vector<int64_t>& values, int64_t n, int64_t least,
                int64_t most = LARGEST, const char* what = "one a band") {
  if ((int64_t)values.size() != n)
    throw bad_value(name, std::to_string(n) + ", " + what, std::to_string(values.size()));
  for (const int64_t value : values) check_whole(name, value, least, most);
}

// Levels are at least 3 each, so that the product passes n, and stops, before it is too large.
void check_product(const std::vector<int64_t>& levels, int64_t n) {
  int64_t product = 1;
  for (size_t i = 0; i < levels.size() && product <= n; ++i) product *= levels[i];
  if (product != n) throw bad_value("n_codes", "the product of levels", std::to_string(n));
}

TokenizerConfig parse_tokenizer(const Json& values) {
  Fields f(values, "tokenizer");
  TokenizerConfig c{};
  c.n_channels = f.whole("n_channels"), c.length = f.whole("length");
  c.bands = f.whole("bands", 2), c.n_fft = f.whole("n_fft", 4);
  c.token_width = f.wholes("token_width", {8, 32}), c.n_codes = f.wholes("n_codes", {1024, 1024});
  c.init_dim = f.whole("init_dim", 4), c.max_dim = f.whole("max_dim", 128);
  c.hidden_dim = f.whole("hidden_dim", 128), c.n_resblocks = f.whole("n_resblocks", 2);
  c.code_dim = f.whole("code_dim", 8);
  const int64_t codebook = f.choice("codebook", {"euclidean", "cosine", "residual", "fsq"});
  if (codebook == 2)
    throw Unsupported("codebook: wanted one with a code for each place, got \"residual\"");
  c.cosine = codebook == 1;
  c.levels = f.wholes("levels", {});
  check_each("levels", c.levels, codebook == 3 ? c.code_dim : 0, 3, 64, "one a dim of fsq");
  check_whole("n_quantisers", f.whole("n_quantisers", 2), 2, 64);
  f.choice("gradient", {"straight_through", "rotation"});
  check_number("dropout", f.number("dropout", 0.3), 0, 1);
  check_number("ema_decay", f.number("ema_decay", 0.8), 0, 1);
  for (const char* const name : {"commitment", "orthogonal"})
    check_number(name, f.number(name, 0), 0);
  check_number("restart_below", f.number("restart_below", 0), 0, ONE_TOO);
  f.end();
  check_whole("bands", c.bands, 1, 2);
  check_whole("length", c.length, 2);
  check_whole("n_fft", c.n_fft, 2, std::max<int64_t>(4, 2 * c.length));
  check_whole("n_channels", c.n_channels, 1), check_whole("init_dim", c.init_dim, 1);
  check_whole("max_dim", c.max_dim, 1), check_whole("hidden_dim", c.hidden_dim, 1);
  check_whole("code_dim", c.code_dim, 1), check_whole("n_resblocks", c.n_resblocks, 0, 1000);
  check_each("token_width", c.token_width, c.bands, 1);
  check_each("n_codes", c.n_codes, c.bands, 1);
  for (int64_t band = 0; band < c.bands && codebook == 3; ++band)
    check_product(c.levels, c.n_codes[band]);
  for (int64_t band = 0; band < c.bands; ++band)
    if (c.n_tokens(band) < 1)
      throw bad_value("token_width", "columns enough that halving time leaves one",
                      std::to_string(c.token_width[band]));
  return c;
}

PriorConfig parse_prior(const Json& values) {
  Fields f(values, "prior");
  PriorConfig c{};
  c.embed_dim = f.whole("embed_dim", 128), c.hidden_dim = f.whole("hidden_dim", 128);
  c.n_layers = f.whole("n_layers", 4), c.n_heads = f.whole("n_heads", 2);
  c.head_dim = f.whole("head_dim", 64), c.ff_mult = f.number("ff_mult", 1);
  c.free_tables = f.choice("tables", {"codes", "free"}) == 1;
  check_number("dropout", f.number("dropout", 0.3), 0, 1);
  check_number("sharpness", f.number("sharpness", 10), 0, INFINITY, true);
  f.end();
  check_whole("embed_dim", c.embed_dim, 1), check_whole("hidden_dim", c.hidden_dim, 1);
  check_whole("n_heads", c.n_heads, 1), check_whole("head_dim", c.head_dim, 1);
  check_whole("n_layers", c.n_layers, 1, 1000);
  check_number("ff_mult", c.ff_mult, 3.0 / 2 / (double)c.hidden_dim, 1000);
  return c;
}

SamplingConfig parse_sampling(const Json& values, int64_t bands) {
  Fields f(values, "sampling");
  SamplingConfig c{};
  c.steps = f.wholes("steps", {10, 10});
  c.temperature = f.number("temperature", 1);
  c.choice_temperature = f.numbers("choice_temperature", {10, 0});
  c.guidance = f.number("guidance", 1);
  c.schedule =
      (Schedule)f.choice("schedule", {"cosine", "linear", "square", "cubic", "sqrt", "log", "exp"});
  c.top_k = f.whole("top_k", 0), c.top_p = f.number("top_p", 1);
  if (const Json* const dtype = f.find("dtype"); dtype && dtype->kind != Json::Kind::null) {
    const std::vector<std::string> known{"float32", "bfloat16", "float16"};
    c.dtype = known[f.choice("dtype", known)];
  }
  f.end();
  check(c, bands);
  return c;
}

int64_t nearest_log2(double ratio) { return (int64_t)std::nearbyint(std::log2(ratio)); }

}  // namespace

// Rounding is to even, as Python's.
int64_t TokenizerConfig::n_halvings(int64_t band) const {
  const double width = (double)token_width[band], samples = (double)inner_length();
  const double rate = samples >= width ? std::nearbyint(samples / (double)hop() / width) : 1;
  return std::max<int64_t>(1, nearest_log2(std::max(1.0, rate)));
}

int64_t TokenizerConfig::hop() const { return std::max<int64_t>(1, n_fft / 4); }

int64_t TokenizerConfig::inner_length() const { return std::max(length, n_fft / 2 + 1); }

int64_t TokenizerConfig::n_frames() const {
  return 1 + (inner_length() + 2 * (n_fft / 2) - n_fft) / hop();
}

int64_t TokenizerConfig::first_row(int64_t band) const { return bands == 2 && band == 1; }

int64_t TokenizerConfig::n_rows(int64_t band) const {
  const int64_t all = n_fft / 2 + 1;
  return bands == 1 ? all : band == 0 ? 1 : all - 1;
}

int64_t TokenizerConfig::n_columns(int64_t band) const { return n_frames() >> n_halvings(band); }

int64_t TokenizerConfig::n_tokens(int64_t band) const { return n_rows(band) * n_columns(band); }

std::vector<int64_t> TokenizerConfig::stage_widths(int64_t band) const {
  std::vector<int64_t> widths;
  for (int64_t i = 0; i < n_halvings(band); ++i)
    widths.push_back(std::min(init_dim << i, std::max(max_dim, init_dim)));
  return widths;
}

int64_t PriorConfig::ff_dim() const { return (int64_t)((double)hidden_dim * ff_mult * 2 / 3); }

void check(const SamplingConfig& c, int64_t bands) {
  check_each("steps", c.steps, bands, 1, 65535);
  if ((int64_t)c.choice_temperature.size() != bands)
    throw bad_value("choice_temperature", std::to_string(bands) + ", one a band",
                    std::to_string(c.choice_temperature.size()));
  for (const double value : c.choice_temperature) check_number("choice_temperature", value, 0);
  check_number("temperature", c.temperature, 0);
  check_number("guidance", c.guidance, -(double)LARGEST);
  check_whole("top_k", c.top_k, 0);
  check_number("top_p", c.top_p, 0, ONE_TOO, true);
}

ModelConfig parse_config(const Json& values) {
  Fields f(values, "model");
  if (const Json* const vae = f.find("vae"); vae && vae->kind != Json::Kind::null)
    throw Unsupported("family: wanted \"vq\", a model of tokens, got \"vae\"");
  ModelConfig c{};
  c.tokenizer = parse_tokenizer(f.required("tokenizer"));
  const Json& priors = f.required("priors");
  const int64_t bands = c.tokenizer.bands;
  if (priors.kind != Json::Kind::list || (int64_t)priors.items.size() != bands)
    throw bad_value("priors", "a list of " + std::to_string(bands), priors.shown());
  for (const Json& prior : priors.items) c.priors.push_back(parse_prior(prior));
  c.n_classes = f.whole("n_classes", 0);
  check_whole("n_classes", c.n_classes, 0);
  check_number("p_unconditional", f.number("p_unconditional", 0.2), 0, ONE_TOO);
  c.aligned = f.choice("band_alignment", {"time", "flat"}) == 0;
  f.choice("mask_polarity", {"mask", "keep"});
  c.sampling = parse_sampling(f.required("sampling"), bands);
  f.end();
  return c;
}

// In float64 and rounded once, as tokenizer.py has it.
std::vector<float> stft_window(int64_t n_fft) {
  std::vector<float> window;
  for (int64_t n = 0; n < n_fft; ++n) {
    const double hann = 0.5 - 0.5 * std::cos(2 * M_PI * (double)n / (double)n_fft);
    window.push_back((float)(hann / std::sqrt((double)n_fft)));
  }
  return window;
}

}  // namespace tsgen
