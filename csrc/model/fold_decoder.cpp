// A decoder's weights, folded: what csrc/cpu/engine/decoder.h asks for.
#include <algorithm>
#include <cmath>
#include <string>

#include "model/error.h"
#include "model/fold.h"
#include "model/matrix.h"

namespace tsgen {
namespace {

// The first block: its first convolutions and its skip as tables of the codes (K, C).
void append_first_block(Floats& flat, const Scope& block, const Doubles& codes, int64_t C,
                        int64_t O, int64_t rows) {
  const int64_t K = (int64_t)codes.size() / C;
  const Doubles a = frequencies(block["snake_in"], C);
  const Doubles taps = taps_first(block["depthwise_in"], C, rows, 3);
  const Doubles point = block["pointwise_in"].doubles("weight", {O, C, 1, 1});
  Doubles active(codes.size()), tapped(codes.size());
  for (int64_t i = 0; i < K * C; ++i) {
    const double sine = std::sin(a[i % C] * codes[i]);
    active[i] = codes[i] + sine * sine / a[i % C];
  }
  for (int64_t tap = 0; tap < 3 * rows; ++tap) {
    for (int64_t i = 0; i < K * C; ++i) tapped[i] = active[i] * taps[tap * C + i % C];
    append(flat, product(tapped.data(), transposed(point.data(), C), K, O, C));
  }
  append(flat, linear(block["depthwise_in"].doubles("bias", {C}), point,
                      block["pointwise_in"].doubles("bias", {O}), C));
  const Scope skip = block["skip"];
  append(flat, C == O ? codes
                      : linear(codes, skip.doubles("weight", {O, C, 1, 1}),
                               skip.doubles("bias", {O}), C));
  append_second_half(flat, block, O, rows);
}

// The last two maps, which have nothing between them: (rows, 4, G, G) and a bias.
void append_dense(Floats& flat, const Scope& layer, int64_t G, int64_t rows) {
  const Doubles spread = layer["spread"].doubles("weight", {G, G, rows, 4});  // (in, out, ...)
  const Doubles point = layer["pointwise"].doubles("weight", {G, G, 1, 1});
  const int64_t taps = 4 * rows;
  for (int64_t i = 0; i < taps; ++i) {
    const Factor tap{spread.data() + i, taps, G * taps};
    append(flat, product(point.data(), tap, G, G, G));
  }
  append(flat, linear(layer["spread"].doubles("bias", {G}), point,
                      layer["pointwise"].doubles("bias", {G}), G));
}

}  // namespace

FoldedDecoder fold_decoder(const TokenizerConfig& config, int64_t band, const Scope& tokenizer) {
  const Scope own = tokenizer["bands"][band], layers = own["decoder"]["layers"];
  const Scope up = own["codebook"]["project_out"];
  const int64_t D = config.hidden_dim, code_dim = config.code_dim, G = 2 * config.n_channels;
  FoldedDecoder out{};
  cpu::DecoderSizes& z = out.sizes;
  z.rows = config.n_rows(band), z.columns = config.n_columns(band);
  z.K = config.n_codes[band], z.G = G, z.L = config.length, z.n_resblocks = config.n_resblocks;
  std::vector<int64_t> widths = config.stage_widths(band);
  std::reverse(widths.begin(), widths.end());
  z.n_stages = (int64_t)widths.size();
  if (z.n_stages > cpu::MOST_STAGES)
    throw bad_value("token_width", "fewer halvings of time", std::to_string(z.n_stages));
  std::copy(widths.begin(), widths.end(), z.width);
  const int64_t rows = cpu::kernel_rows(z);

  const Doubles codes =
      linear(compared_codes(config, band, own["codebook"]), up.doubles("weight", {D, code_dim}),
             up.doubles("bias", {D}), code_dim);
  int64_t layer = 0;
  append_first_block(out.flat, layers[layer++], codes, D, widths[0], rows);
  for (int64_t i = 0; i < z.n_stages; ++i) {
    const bool last = i + 1 == z.n_stages;
    const int64_t C = widths[i], next = last ? G : widths[i + 1];
    for (int64_t r = 0; r < z.n_resblocks && !last; ++r)
      append_res_block(out.flat, layers[layer++], C, C, rows);
    const Scope block = layers[layer++], conv = last ? block : block["conv"];
    append_conv(out.flat, conv["spread"], conv["pointwise"], C, next, rows, 4);
    if (!last) append_snake(out.flat, block["snake"], next, true);
  }
  append_dense(out.flat, layers[layer], G, rows);
  SampleTaps taps = sample_taps(config, band);
  append(out.flat, taps.weight);
  z.n_taps = taps.n_taps, out.sample_frame = std::move(taps.frame);
  return out;
}

}  // namespace tsgen
