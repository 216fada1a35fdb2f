// Every CUDA kernel, on one screen: what it computes stands in ops.h, under the same name.
//
// All addresses are on the device, all tensors contiguous where no strides are given. `void*` is a
// tensor of `on.dtype`, what is `float*` is float32 whatever that is. Nothing is waited for. What
// an <op>_scratch returns, in bytes and for the same sizes, `on.scratch` has to have room for.
// Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "cuda/machine/device.h"

namespace tsgen::cuda {

void keep_confident(const Launch& on, const void* confidence, const int64_t* n_masked,
                    uint8_t* masked, int64_t B, int64_t N, int64_t n_bytes);

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

}  // namespace tsgen::cuda
