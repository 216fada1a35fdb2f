// An encoder's weights, folded: what csrc/cuda/engine/encoder.h asks for.
#include "model/fold.h"

namespace tsgen {

Floats fold_encoder(const TokenizerConfig& config, int64_t band, const Scope& tokenizer) {
  const Scope own = tokenizer["bands"][band], layers = own["encoder"]["layers"];
  const Scope codebook = own["codebook"], project_in = codebook["project_in"];
  const int64_t rows = config.n_rows(band) == 1 ? 1 : 3, D = config.code_dim;
  const int64_t last_width = config.hidden_dim;
  Floats out;
  int64_t layer = 0, C = 2 * config.n_channels, stage = 0;
  for (const int64_t width : config.stage_widths(band)) {
    const Scope down = layers[layer++];
    append_conv(out, down["depthwise"], down["pointwise"], C, width, rows, 4);
    append_snake(out, down["snake"], width, true);
    C = width;
    for (int64_t r = 0; r < config.n_resblocks && stage > 0; ++r)
      append_res_block(out, layers[layer++], C, C, rows);
    ++stage;
  }
  const Scope last = layers[layer];
  append_res_block(out, last, C, last_width, rows);
  if (C != last_width) {
    append(out, last["skip"].doubles("weight", {last_width, C, 1, 1}));
    append(out, last["skip"].doubles("bias", {last_width}));
  }
  append(out, project_in.doubles("weight", {D, last_width}));
  append(out, project_in.doubles("bias", {D}));
  append(out, compared_codes(config, band, codebook));
  return out;
}

}  // namespace tsgen
