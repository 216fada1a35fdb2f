// Every CUDA kernel, on one screen: what it computes stands in ops.h, under the same name.
//
// All addresses are on the device, all tensors contiguous where no strides are given. `void*` is a
// tensor of `on.dtype`, what is `float*` is float32 whatever that is. Nothing is waited for. What
// an <op>_scratch returns, in bytes and for the same sizes, `on.scratch` has to have room for.
// Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "cuda/decode.h"
#include "cuda/machine/device.h"

namespace tsgen::cuda {

void stft(const Launch& on, const void* x, const float* window, void* planes, int64_t N, int64_t L,
          int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T);
void stft_backward(const Launch& on, const void* grad_planes, const float* window, void* grad_x,
                   int64_t N, int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F,
                   int64_t T);
int64_t stft_scratch(int64_t N, int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F,
                     int64_t T);  // of stft_backward, too

void istft(const Launch& on, const void* planes, const float* window, void* x, int64_t N, int64_t L,
           int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T);
void istft_backward(const Launch& on, const void* grad_x, const float* window, void* grad_planes,
                    int64_t N, int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F,
                    int64_t T);
int64_t istft_scratch(int64_t N, int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F,
                      int64_t T);  // of istft_backward, too

void attention(const Launch& on, const void* q, const void* k, const void* v, const float* null_kv,
               const float* q_scale, const float* k_scale, const int64_t* lengths, void* out,
               int64_t q_b, int64_t q_h, int64_t q_m, int64_t k_b, int64_t k_h, int64_t k_n,
               int64_t v_b, int64_t v_h, int64_t v_n, int64_t B, int64_t H, int64_t M, int64_t N,
               int64_t D);
int64_t attention_backward_scratch(int64_t g_b, int64_t g_h, int64_t g_m, int64_t q_b, int64_t q_h,
                                   int64_t q_m, int64_t k_b, int64_t k_h, int64_t k_n, int64_t v_b,
                                   int64_t v_h, int64_t v_n, int64_t B, int64_t H, int64_t M,
                                   int64_t N, int64_t D);
void attention_backward(const Launch& on, const void* grad_out, const void* q, const void* k,
                        const void* v, const float* null_kv, const float* q_scale,
                        const float* k_scale, const int64_t* lengths, void* grad_q, void* grad_k,
                        void* grad_v, float* grad_null_kv, float* grad_q_scale, float* grad_k_scale,
                        int64_t g_b, int64_t g_h, int64_t g_m, int64_t q_b, int64_t q_h,
                        int64_t q_m, int64_t k_b, int64_t k_h, int64_t k_n, int64_t v_b,
                        int64_t v_h, int64_t v_n, int64_t B, int64_t H, int64_t M, int64_t N,
                        int64_t D);

void dropout(const Launch& on, const void* x, const int64_t* seed, const void* residual, void* out,
             int64_t n, int64_t n_dropped);

void keep_confident(const Launch& on, const void* confidence, const int64_t* n_masked,
                    uint8_t* masked, int64_t B, int64_t N, int64_t n_bytes);

// Ids and distances are those of a search in float32, d = 0, 1, ..., whatever the dtype.
void nearest_code(const Launch& on, const void* x, const void* codes, int64_t* ids, float* distance,
                  int64_t* counts, float* sums, int64_t N, int64_t K, int64_t D);
int64_t nearest_code_scratch(int64_t N, int64_t K, int64_t D);

void philox(const Launch& on, const int64_t* sample, int64_t* words, uint64_t key, int64_t B,
            int64_t N, uint32_t stream, uint32_t step, uint32_t band);

int64_t masked_cross_entropy_scratch(int64_t M, int64_t R, int64_t K, int64_t D);
void masked_cross_entropy(const Launch& on, const void* h, const void* weight, const float* bias,
                          const int64_t* rows, const int64_t* target, float* loss, int64_t M,
                          int64_t R, int64_t K, int64_t D);
int64_t masked_cross_entropy_backward_scratch(int64_t M, int64_t R, int64_t K, int64_t D);
void masked_cross_entropy_backward(const Launch& on, const void* h, const void* weight,
                                   const float* bias, const int64_t* rows, const int64_t* target,
                                   float* loss, void* grad_h, float* grad_weight, float* grad_bias,
                                   int64_t M, int64_t R, int64_t K, int64_t D);

void sample_code(const Launch& on, const void* h, const double* u, const void* weight,
                 const float* bias, int64_t* ids, float* logp, int64_t R, int64_t D, int64_t K,
                 double temperature, int64_t top_k, double top_p);

void snake(const Launch& on, const void* x, const float* a, const float* gain, const float* shift,
           void* out, int64_t B, int64_t C, int64_t S);
int64_t snake_backward_scratch(int64_t B, int64_t C, int64_t S);
void snake_backward(const Launch& on, const void* grad_out, const void* x, const float* a,
                    const float* gain, const float* shift, void* grad_x, float* grad_a,
                    float* grad_gain, float* grad_shift, int64_t B, int64_t C, int64_t S);

// A whole layer, see transformer_block.py, in 16 bits    x, out (S, T, D), qkv (3 H Dh, D), null_kv
// (2, H, Dh), q_scale and k_scale (Dh), out_weight (D, H Dh), up (F, D), down (D, down_stride) of
// which F count, 8 readable at a time; gains and shifts (D), of the middle (F). T < 144, D and Dh
// multiples of 16, as many bytes of a block's shared memory as transformer_block_shared says.
void transformer_block(const Launch& on, const void* x, const float* gain_in, const float* shift_in,
                       const void* qkv, const float* null_kv, const float* q_scale,
                       const float* k_scale, const void* out_weight, const float* gain_out,
                       const float* shift_out, const float* gain_ff, const float* shift_ff,
                       const void* up, const float* gain_mid, const float* shift_mid,
                       const void* down, void* out, int64_t S, int64_t T, int64_t D, int64_t H,
                       int64_t Dh, int64_t F, int64_t down_stride, double eps);
int64_t transformer_block_shared(int64_t T, int64_t D, int64_t H, int64_t Dh, int64_t F);

// A band's decoding loop in one kernel, in 16 bits, of sizes whose decode_shared, in bytes of a
// block's shared memory, the device has.
void decode(const Launch& on, const DecodeTables& tables, const DecodeSizes& sizes,
            const DecodeRequest& request, const DecodePlan& plan);
int64_t decode_shared(const DecodeSizes& sizes);

}  // namespace tsgen::cuda
