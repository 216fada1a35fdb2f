// What the whole decoding loop of a band takes, see _decode.cu. Plain C++.
//
// Sizes: N tokens, D width, H heads of Dh dims, F features, K codes. Matrices are of 16 bits.
#pragma once

#include <cstdint>

#include "cuda/machine/device.h"

namespace tsgen::cuda {

constexpr int MOST_LAYERS = 16, MOST_STEPS = 64, LAYER_TENSORS = 15;

struct BlockSizes {
  int T, D, H, Dh, F, down_stride;
  float eps;
};

struct DecodeSizes {
  BlockSizes block;  // T = N + 1
  int N, K, n_layers, n_classes, band, guided;
  float guidance, sharpness;  // log2(e) / temperature
};

struct DecodeTables {
  const void* layer[MOST_LAYERS][LAYER_TENSORS];  // in the order of ops.LayerWeights
  const void* tokens;                             // (K + 1, D)
  const void* first;                              // (n_classes + 1, N, D) or null
  const void *head_in, *head;                     // (D, D), (K, D)
  const float *places, *classes;                  // (N, D), (n_classes + 1, D)
  const float *head_in_bias, *head_gain, *head_shift, *head_bias;  // (D), (D), (D), (K)
};

struct DecodeRequest {
  int64_t B;
  const int64_t *seed, *index, *class_id;  // (B)
  const void* context;                     // (B, N, D) or null
  int64_t* ids;                            // (B, N)
  uint8_t* invalid;                        // (B), set to 1 where a draw had no law
};

struct DecodePlan {
  int n_steps;
  int left[MOST_STEPS];      // masked places after each step
  double noise[MOST_STEPS];  // weight of the noise on the confidence
};

// Layers up to 128 wide, of less than 80 tokens, have faster kernels, see narrow.cuh.
constexpr int NARROW = 128, NARROW_TOKENS = 80;
inline bool is_narrow(const BlockSizes& z) {
  return z.D <= NARROW && z.H * z.Dh <= NARROW && z.F <= NARROW && z.Dh <= 64 &&
         z.T < NARROW_TOKENS;
}
void decode_narrow(const Launch& on, const DecodeTables& tables, const DecodeSizes& sizes,
                   const DecodeRequest& request, const DecodePlan& plan);
int64_t decode_narrow_shared(const DecodeSizes& sizes);  // INT64_MAX: too many tokens, twice

}  // namespace tsgen::cuda
