// Every native kernel, on one screen. Raw pointers, contiguous; no PyTorch, no Python.
#pragma once

#include <cstdint>

namespace tsgen::cpu {

// ids[r] = the first k with  sum_{j<=k} p_j > u[r] sum_j p_j,  p = softmax(l / temperature) cut to
// top_k and top_p,  l = h Wᵀ + b;  logp[r] = log softmax(l)[ids[r]]; no law: id 0, logp NaN
// h (R, D), u (R) in (0, 1), weight (K, D), bias (K) or null; without weight h is l and D is K
void sample_code(const float* h, const double* u, const float* weight, const float* bias,
                 int64_t* ids, float* logp, int64_t R, int64_t D, int64_t K, double temperature,
                 int64_t top_k, double top_p, int64_t n_threads);

// masked[b] = 1 at the n_masked[b] lowest confidences of row b, 0 elsewhere; on a tie the lower
// position stays 0; NaN is as low as -inf
// confidence (B, N) of n_bytes each: 4 for float, 8 for double
void keep_confident(const void* confidence, const int64_t* n_masked, uint8_t* masked, int64_t B,
                    int64_t N, int64_t n_bytes, int64_t n_threads);

// loss = mean over r of -log softmax(h[rows[r]] Wᵀ + b)[target[r]], 0 where R is 0
// h (M, D), weight (K, D), bias (K) or null, rows (R) distinct. Backward: the loss and its
// gradients in one pass; grad_bias null without bias.
void masked_cross_entropy(const float* h, const float* weight, const float* bias,
                          const int64_t* rows, const int64_t* target, float* loss, int64_t R,
                          int64_t K, int64_t D, int64_t n_threads);
void masked_cross_entropy_backward(const float* h, const float* weight, const float* bias,
                                   const int64_t* rows, const int64_t* target, float* loss,
                                   float* grad_h, float* grad_weight, float* grad_bias, int64_t M,
                                   int64_t R, int64_t K, int64_t D, int64_t n_threads);

// out = y + sin²(a y) / a,  y = gain x + shift    x (B, C, S); a, gain, shift (C), the last two or
// neither. Backward: the gradients of all of them; grad_gain and grad_shift null without gain.
void snake(const float* x, const float* a, const float* gain, const float* shift, float* out,
           int64_t B, int64_t C, int64_t S, int64_t n_threads);
void snake_backward(const float* grad_out, const float* x, const float* a, const float* gain,
                    const float* shift, float* grad_x, float* grad_a, float* grad_gain,
                    float* grad_shift, int64_t B, int64_t C, int64_t S, int64_t n_threads);

// words[b, n] = the Philox words of sample[b] at position n, see philox.h
// sample (B), words (B, N, 4) in [0, 2^32): int64, since PyTorch cannot shift or gather uint32
void philox(uint64_t key, const int64_t* sample_B, int64_t B, int64_t N, uint32_t stream,
            uint32_t step, uint32_t band, int64_t* words_BN4);

}  // namespace tsgen::cpu
