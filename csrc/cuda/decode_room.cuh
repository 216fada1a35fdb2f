// Where a CTA of _decode_narrow.cu has what beside its layers, and the order of all panels.
#pragma once

#include "cuda/draws.cuh"
#include "cuda/narrow_room.cuh"

namespace tsgen::cuda {

constexpr int MOST_PIECES = 16;

// Where a CTA keeps what the layers do not know of; the sums stand where x was.
struct DecodeRoom {
  NarrowRoom layers;
  int n;                   // sequences of a CTA; each goes through twice where there is guidance
  int piece, pieces;       // panels of a piece of the codes; pieces
  int sums, order, table;  // in bytes
  int each, first_head, n_panels;  // panels of a layer; before the head's; of a step, these once
  DrawRoom draws;
};

inline DecodeRoom decode_room(const DecodeSizes& z, int n) {
  DecodeRoom room;
  room.layers = narrow_room(z.block, z.guided ? 2 * n : n);
  room.n = n;
  const int panels = (int)ceil_div(z.K, PANEL_ROWS);
  room.piece = (int)ceil_div(panels, MOST_PIECES);
  room.pieces = (int)ceil_div(panels, room.piece);
  const int rows = n * z.N;
  room.sums = room.layers.x;
  const int sums_end = room.sums + rows * room.pieces * (int)sizeof(PieceSums);
  room.order = round_up(max(sums_end, room.layers.n_bytes), 16);
  room.table = round_up(room.order + 4 * rows, 16);
  const LayerPanels<Half> layer{z.block};
  room.each = layer.count();
  room.first_head = z.n_layers * room.each + layer.of_width(z.block.D);
  room.n_panels = room.first_head + panels;
  room.draws = draw_room(room.table + room.n_panels * (int)sizeof(PanelSource<Half>), n, z.N);
  return room;
}

// The most sequences of a CTA that fit into so many bytes of shared memory, 0 if none does.
inline int most_sequences(const DecodeSizes& z, int64_t n_bytes) {
  int n = most_narrow(z.block.T) / (z.guided ? 2 : 1);
  while (n > 0 && decode_room(z, n).draws.end > n_bytes) --n;
  return n;
}

// All panels of all steps, in the order in which Decoder takes them, from a table of those of one:
// the layers', the head's first layer's, and the head's, which go by twice.
template <typename T>
struct DecodePanels {
  const DecodeRoom& room;
  const char* shared;
  int at;  // steps left, times STEP, and what is taken of this one: together, to save a register
  static constexpr int STEP = 1 << 16;

  __device__ PanelSource<T> next() {
    if (at < STEP) return {};
    const int twice = 2 * room.n_panels - room.first_head, i = at % STEP;
    const PanelSource<T>* const table = (const PanelSource<T>*)(shared + room.table);
    const PanelSource<T> source = table[i < room.n_panels ? i : i - twice + room.n_panels];
    at += i + 1 < twice ? 1 : -i - STEP;
    return source;
  }
};

}  // namespace tsgen::cuda
