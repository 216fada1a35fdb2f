// The weights of a band's decoding loop, with their types: DecodeTables as the kernels take them.
// And what both kernels begin a step with: the embeddings.
#pragma once

#include "cuda/block.cuh"
#include "cuda/draws.cuh"

namespace tsgen::cuda {

template <typename T>
struct DecodeWeights {
  BlockWeights<T> layer[MOST_LAYERS];
  const T *tokens, *first, *head_in, *head;  // as DecodeTables has them
  const float *places, *classes, *head_in_bias, *head_gain, *head_shift, *head_bias;
};

template <typename T>
BlockWeights<T> layer_of(const void* const (&at)[LAYER_TENSORS]) {
  const auto f = [&](int i) { return (const float*)at[i]; };
  const auto m = [&](int i) { return (const T*)at[i]; };
  return {f(0),  f(1),  f(3),  f(4), f(5), f(7),  f(8), f(9),
          f(10), f(12), f(13), m(2), m(6), m(11), m(14)};
}

template <typename T>
DecodeWeights<T> weights_of(const DecodeTables& tables, int n_layers) {
  DecodeWeights<T> w{};
  for (int l = 0; l < n_layers; ++l) w.layer[l] = layer_of<T>(tables.layer[l]);
  w.tokens = (const T*)tables.tokens, w.first = (const T*)tables.first;
  w.head_in = (const T*)tables.head_in, w.head = (const T*)tables.head;
  w.places = tables.places, w.classes = tables.classes;
  w.head_in_bias = tables.head_in_bias, w.head_gain = tables.head_gain;
  w.head_shift = tables.head_shift, w.head_bias = tables.head_bias;
  return w;
}

// Row m of all tokens of all sequences and passes, the class first, by a warp: `put` takes number
// i.
template <typename T, typename Put>
__device__ void embed_row(const DecodeWeights<T>& w, const Draws& draws, int D, int m,
                          const Put& put) {
  const int T_ = draws.z.block.T, N = draws.z.N;
  const int g = m / T_ % draws.n, pass = m / T_ / draws.n, n = m % T_ - 1;
  const int64_t b = draws.sequence(g);
  const T* const context = (const T*)draws.request.context;
  for (int i = thread_now() % WARP; i < D; i += WARP) {
    float y;
    if (n < 0) {
      y = w.classes[draws.class_of(pass, g) * D + i];
    } else {
      y = load(w.tokens[(int64_t)draws.ids[g * N + n] * D + i]) + w.places[n * D + i];
      if (context) y += load(context[(b * N + n) * D + i]);
    }
    put(i, y);
  }
}

}  // namespace tsgen::cuda
