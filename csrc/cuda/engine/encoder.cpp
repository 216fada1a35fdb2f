#include "cuda/engine/encoder.h"

#include <algorithm>

#include "ops_cuda.h"

namespace tsgen::cuda {

Encoder::Encoder(const Launch& on, const TokenizerConfig& config, int64_t band,
                 const Floats& folded)
    : config_(config), band_(band) {
  const int64_t size = config.n_rows(band) == 1 ? 1 : 3, D = config.hidden_dim;
  int64_t C = 2 * config.n_channels;
  Flat flat(on, folded, kept_);
  for (const int64_t width : config.stage_widths(band)) {
    Stage stage;
    stage.down = Conv(flat, Taps::halve, C, width, size);
    stage.snake = Snake(flat, width, true);
    C = width;
    for (int64_t r = 0; r < config.n_resblocks && !stages_.empty(); ++r)
      stage.blocks.emplace_back(flat, C, C, size);
    stages_.push_back(std::move(stage));
  }
  last_.emplace(flat, C, D, size);
  if (C != D) skip_ = flat.next(D * C), skip_bias_ = flat.next(D);
  project_ = flat.next(config.code_dim * D), project_bias_ = flat.next(config.code_dim);
  codes_ = flat.next(config.n_codes[band] * config.code_dim);
  flat.end();
  if (!config.levels.empty()) levels_ = kept_.add(on, config.levels);
  const std::vector<float> window = stft_window(config.n_fft);
  window_ = kept_.add(on, window);
  wait(on);  // `window` has to stay until then
}

// The largest that an image of one series gets.
int64_t Encoder::most() const {
  int64_t columns = config_.n_frames(), C = 2 * config_.n_channels, largest = columns * C;
  for (const Stage& stage : stages_) {
    columns /= 2;
    largest = std::max(largest, columns * std::max(stage.down.C, stage.down.O));
  }
  largest = std::max({largest, columns * config_.hidden_dim, columns * config_.code_dim});
  return config_.n_rows(band_) * largest;
}

Encoder::Rooms Encoder::lay_out(Room& room, int64_t n) const {
  const TokenizerConfig& z = config_;
  const int64_t N = z.n_tokens(band_);
  Rooms r;
  for (float** const image : {&r.images.x, &r.images.h, &r.images.g})
    *image = room.take<float>(n * most());
  r.skip = room.take<float>(skip_ ? n * most() : 0);
  r.distance = room.take<float>(n * N);
  r.stft = room.take<char>(stft_scratch(n * z.n_channels, z.inner_length(), z.n_fft, z.hop(),
                                        z.first_row(band_), z.n_rows(band_), z.n_frames()));
  r.search = room.take<char>(nearest_code_scratch(n * N, z.n_codes[band_], z.code_dim));
  return r;
}

int64_t Encoder::scratch(int64_t n) const {
  Room room;
  lay_out(room, n);
  return room.used();
}

// (positions, code_dim): the image x in the codes' own space; all images are lost.
const float* Encoder::latents(const Launch& on, const Images& images, Grid grid) const {
  const auto [x, h, g] = images;
  const int64_t D = config_.hidden_dim, rows = grid.positions();
  unit_rows(on, x, x, rows, D);
  linear(on, x, project_, {project_bias_}, h, rows, config_.code_dim, D);
  if (levels_) bound_rows(on, h, levels_, rows, config_.code_dim);
  if (config_.cosine) unit_rows(on, h, h, rows, config_.code_dim);
  return h;
}

void Encoder::encode(const Launch& on, const float* x_in, int64_t n, int64_t* ids) const {
  const TokenizerConfig& z = config_;
  Room room(on.scratch);
  const Rooms rooms = lay_out(room, n);
  const auto [x, h, g] = rooms.images;
  const int64_t F = z.n_rows(band_), T = z.n_frames(), G = 2 * z.n_channels;
  stft({on.dtype, on.device, on.stream, rooms.stft}, x_in, window_, h, n * z.n_channels,
       z.inner_length(), z.n_fft, z.hop(), z.first_row(band_), F, T);
  channels_last(on, h, x, n, G, F * T);
  Grid grid{n, F, T};
  for (const Stage& stage : stages_) {
    grid = stage.down.apply(on, x, g, nullptr, x, grid);
    stage.snake.apply(on, x, x, grid.positions(), stage.down.O);
    for (const ResBlock& block : stage.blocks) block.apply(on, rooms.images, x, grid);
  }
  if (skip_)  // elsewhere: the block reads x
    linear(on, x, skip_, {skip_bias_}, rooms.skip, grid.positions(), last_->conv_in.O,
           last_->conv_in.C);
  last_->apply(on, rooms.images, skip_ ? rooms.skip : x, grid);
  const float* const found = latents(on, rooms.images, grid);
  nearest_code({on.dtype, on.device, on.stream, rooms.search}, found, codes_, ids, rooms.distance,
               nullptr, nullptr, grid.positions(), z.n_codes[band_], z.code_dim);
}

}  // namespace tsgen::cuda
