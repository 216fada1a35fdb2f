#include "cuda/engine/decoder.h"

#include <algorithm>

namespace tsgen::cuda {

Decoder::Decoder(const Launch& on, const FoldedDecoder& folded) : z_(folded.sizes) {
  const int64_t size = cpu::kernel_rows(z_), first = z_.width[0];
  Flat flat(on, folded.flat, kept_);
  tables_ = flat.next(size * 3 * z_.K * first), table_bias_ = flat.next(first);
  skip_ = flat.next(z_.K * first);
  first_snake_ = Snake(flat, first, true);
  first_conv_ = Conv(flat, Taps::same, first, first, size);
  for (int64_t i = 0; i < z_.n_stages; ++i) {
    const bool last = i + 1 == z_.n_stages;
    const int64_t C = z_.width[i], next = last ? z_.G : z_.width[i + 1];
    Stage stage;
    for (int64_t r = 0; r < z_.n_resblocks && !last; ++r)
      stage.blocks.emplace_back(flat, C, C, size);
    stage.up = Conv(flat, Taps::twice, C, next, size);
    if (!last) stage.snake = Snake(flat, next, true);
    stages_.push_back(std::move(stage));
  }
  dense_ = flat.next(size * 4 * z_.G * z_.G), dense_bias_ = flat.next(z_.G);
  sample_ = flat.next(z_.L * z_.n_taps * 2 * z_.rows);
  flat.end();
  sample_frame_ = kept_.add(on, folded.sample_frame);
  wait(on);
}

// The largest that an image of one series gets.
int64_t Decoder::most() const {
  int64_t positions = z_.rows * z_.columns, largest = positions * z_.width[0];
  for (int64_t i = 0; i < z_.n_stages; ++i) {
    positions *= 2;
    // the product behind a doubling has the next width, the doubling itself this one
    largest = std::max(largest, positions * std::max(z_.width[i], z_.G));
  }
  return std::max(largest, 2 * positions * z_.G);
}

int64_t Decoder::scratch(int64_t n) const {
  Room room;
  lay_out(room, n);
  return room.used();
}

Images Decoder::lay_out(Room& room, int64_t n) const {
  Images images;
  for (float** const image : {&images.x, &images.h, &images.g})
    *image = room.take<float>(n * most());
  return images;
}

void Decoder::decode(const Launch& on, const int64_t* ids, int64_t n, float* series,
                     bool first) const {
  const int64_t size = cpu::kernel_rows(z_), C = z_.width[0];
  Room room(on.scratch);
  const Images images = lay_out(room, n);
  const auto [x, h, g] = images;
  Grid grid{n, z_.rows, z_.columns};
  look_up(on, ids, tables_, table_bias_, skip_, h, x, grid, z_.K, C, size);
  first_snake_.apply(on, h, h, grid.positions(), C);
  first_conv_.apply(on, h, g, x, x, grid);
  for (const Stage& stage : stages_) {
    for (const ResBlock& block : stage.blocks) block.apply(on, images, x, grid);
    grid = stage.up.apply(on, x, g, nullptr, x, grid);
    if (stage.snake.a) stage.snake.apply(on, x, x, grid.positions(), stage.up.O);
  }
  spread_dense(on, x, dense_, dense_bias_, g, grid, z_.G, size);
  grid.columns *= 2;
  to_series(on, g, sample_, sample_frame_, series, grid, z_.G, z_.L, z_.n_taps, first);
}

}  // namespace tsgen::cuda
