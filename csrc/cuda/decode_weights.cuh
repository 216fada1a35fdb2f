// The weights of a band's decoding loop, with their types: DecodeTables as the kernels take them.
#pragma once

#include "cuda/block.cuh"

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

}  // namespace tsgen::cuda
