#include "model/encoder.h"

#include <algorithm>
#include <cmath>

#include "levels.h"
#include "model/fold.h"
#include "ops.h"

namespace tsgen {
namespace {

const float* or_null(const Floats& values) { return values.empty() ? nullptr : values.data(); }

// Each of x's n vectors of C numbers, `stride` apart and beginning one after the other, to its
// length.
Floats lengths(const float* x, int64_t C, int64_t stride, int64_t n) {
  Doubles squares(n);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t i = 0; i < n; ++i)
      squares[i] += (double)x[c * stride + i] * (double)x[c * stride + i];
  Floats out(n);
  for (int64_t i = 0; i < n; ++i) out[i] = std::max((float)std::sqrt(squares[i]), 1e-12f);
  return out;
}

}  // namespace

Activation::Activation(const Scope& snake, int64_t C, bool normalised)
    : a(snake.floats("a_C", {C})) {
  if (!normalised) return;
  const Scope norm = snake["norm"];
  const Floats mean = norm.floats("running_mean", {C}), var = norm.floats("running_var", {C});
  gain = norm.floats("weight", {C}), shift = norm.floats("bias", {C});
  for (int64_t c = 0; c < C; ++c) {  // in float32, as layers.py's folded
    gain[c] *= 1.0f / std::sqrt(var[c] + 1e-5f);
    shift[c] -= mean[c] * gain[c];
  }
}

void Activation::apply(Image& x, int64_t n_threads) const {
  float* const values = x.values.data();
  cpu::snake(values, a.data(), or_null(gain), or_null(shift), values, x.B, x.C, x.H * x.W,
             n_threads);
}

Convolution::Convolution(const Scope* depthwise, const Scope& pointwise, cpu::Taps kind, int64_t C,
                         int64_t O, int64_t kernel_rows)
    : kind(kind), C(C), O(O), kernel_rows(kernel_rows) {
  weight = pointwise.floats("weight", {O, C, 1, 1}), bias = pointwise.floats("bias", {O});
  if (!depthwise) return;
  const int64_t width = kind == cpu::Taps::same ? 3 : 4;
  taps = depthwise->floats("weight", {C, 1, kernel_rows, width});
  tap_bias = depthwise->floats("bias", {C});
}

Image Convolution::of(const Image& x, const Activation* before, int64_t n_threads) const {
  Image y{x.B, O, x.H, kind == cpu::Taps::halve ? x.W / 2 : x.W, {}};
  y.values.resize(y.B * y.C * y.H * y.W);
  cpu::separable_conv(x.values.data(), before ? before->a.data() : nullptr,
                      before ? or_null(before->gain) : nullptr,
                      before ? or_null(before->shift) : nullptr, or_null(taps), or_null(tap_bias),
                      weight.data(), bias.data(), y.values.data(), nullptr, nullptr, x.B, C, x.H,
                      x.W, O, kernel_rows, (int64_t)kind, n_threads);
  return y;
}

namespace {

Convolution separable(const Scope& block, const std::string& end, cpu::Taps kind, int64_t C,
                      int64_t O, int64_t kernel_rows) {
  const Scope depthwise = block["depthwise" + end];
  return Convolution(&depthwise, block["pointwise" + end], kind, C, O, kernel_rows);
}

}  // namespace

DownBlock::DownBlock(const Scope& block, int64_t C, int64_t O, int64_t kernel_rows)
    : conv(separable(block, "", cpu::Taps::halve, C, O, kernel_rows)),
      snake(block["snake"], O, true) {}

ResBlock::ResBlock(const Scope& block, int64_t C, int64_t O, int64_t kernel_rows)
    : snake_in(block["snake_in"], C, false),
      conv_in(separable(block, "_in", cpu::Taps::same, C, O, kernel_rows)),
      snake_out(block["snake_out"], O, true),
      conv_out(separable(block, "_out", cpu::Taps::same, O, O, kernel_rows)) {
  if (C != O) skip.emplace(nullptr, block["skip"], cpu::Taps::none, C, O, 1);
}

Image ResBlock::of(const Image& x, int64_t n_threads) const {
  const Image h = conv_in.of(x, &snake_in, n_threads);
  Image y = conv_out.of(h, &snake_out, n_threads);
  const Image& beside = skip ? skip->of(x, nullptr, n_threads) : x;
  for (size_t i = 0; i < y.values.size(); ++i) y.values[i] += beside.values[i];
  return y;
}

Encoder::Encoder(const TokenizerConfig& config, int64_t band, const Scope& tokenizer)
    : config_(config), band_(band), window_(stft_window(config.n_fft)) {
  const Scope own = tokenizer["bands"][band], layers = own["encoder"]["layers"];
  const Scope codebook = own["codebook"], project_in = codebook["project_in"];
  const int64_t rows = config.n_rows(band) == 1 ? 1 : 3;
  int64_t layer = 0, C = 2 * config.n_channels;
  for (const int64_t width : config.stage_widths(band)) {
    stages_.push_back({DownBlock(layers[layer++], C, width, rows), {}});
    C = width;
    for (int64_t r = 0; r < config.n_resblocks && stages_.size() > 1; ++r)
      stages_.back().blocks.emplace_back(layers[layer++], C, C, rows);
  }
  last_.emplace(layers[layer], C, config.hidden_dim, rows);
  const int64_t D = config.code_dim;
  const Doubles codes = compared_codes(config, band, codebook);
  codes_.assign(codes.begin(), codes.end());
  project_bias_ = project_in.floats("bias", {D});
  project_weight_ = project_in.floats("weight", {D, config.hidden_dim});
}

Floats Encoder::down(const Image& latents, int64_t n_threads) const {
  const int64_t N = latents.H * latents.W, D = config_.code_dim, C = latents.C;
  const Floats none(D);
  Floats planes(latents.B * D * N), out(latents.B * N * D);
  cpu::separable_conv(latents.values.data(), nullptr, nullptr, nullptr, nullptr, nullptr,
                      project_weight_.data(), none.data(), planes.data(), nullptr, nullptr,
                      latents.B, C, 1, N, D, 1, (int64_t)cpu::Taps::none, n_threads);
  for (int64_t b = 0; b < latents.B; ++b) {
    // W (z / |z|) + b, without z / |z|, which is many times as large
    const Floats length = lengths(latents.values.data() + b * C * N, C, N, N);
    for (int64_t i = 0; i < N; ++i)
      for (int64_t d = 0; d < D; ++d)
        out[(b * N + i) * D + d] = planes[(b * D + d) * N + i] / length[i] + project_bias_[d];
  }
  for (size_t i = 0; i < out.size() && !config_.levels.empty(); ++i)
    out[i] = bounded(out[i], config_.levels[i % D]);
  for (int64_t row = 0; row < latents.B * N && config_.cosine; ++row) {
    float* const x = &out[row * D];
    const float length = lengths(x, D, 1, 1)[0];
    for (int64_t d = 0; d < D; ++d) x[d] /= length;
  }
  return out;
}

void Encoder::encode(const float* x, int64_t n, int64_t n_threads, int64_t* ids) const {
  const TokenizerConfig& z = config_;
  const int64_t F = z.n_rows(band_), T = z.n_frames();
  Image image{n, 2 * z.n_channels, F, T, Floats(n * 2 * z.n_channels * F * T)};
  cpu::stft(x, window_.data(), image.values.data(), n * z.n_channels, z.inner_length(), z.n_fft,
            z.hop(), z.first_row(band_), F, T, n_threads);
  for (const Stage& stage : stages_) {
    image = stage.down.conv.of(image, nullptr, n_threads);
    stage.down.snake.apply(image, n_threads);
    for (const ResBlock& block : stage.blocks) image = block.of(image, n_threads);
  }
  const Floats latents = down(last_->of(image, n_threads), n_threads);
  Floats distance(n * z.n_tokens(band_));
  cpu::nearest_code(latents.data(), codes_.data(), ids, distance.data(), nullptr, nullptr,
                    n * z.n_tokens(band_), z.n_codes[band_], z.code_dim, n_threads);
}

}  // namespace tsgen
