// Every native kernel, on one screen. Raw pointers, contiguous; no PyTorch, no Python.
#pragma once

#include <cstdint>

namespace tsgen::cpu {

// out = y + sin²(a y) / a,  y = gain x + shift    x (B, C, S); a, gain, shift (C), the last two or
// neither. Backward: the gradients of all of them; grad_gain and grad_shift null without gain.
void snake(const float* x, const float* a, const float* gain, const float* shift, float* out,
           int64_t B, int64_t C, int64_t S, int64_t n_threads);
void snake_backward(const float* grad_out, const float* x, const float* a, const float* gain,
                    const float* shift, float* grad_x, float* grad_a, float* grad_gain,
                    float* grad_shift, int64_t B, int64_t C, int64_t S, int64_t n_threads);

// ids[n] = argmin_k |x[n] - codes[k]|², and that distance    x (N, D), codes (K, D)
// A row that is not finite: id 0, distance NaN. A code that is not is never chosen. counts (K) and
// sums (K, D) of the rows of each code, or both null.
void nearest_code(const float* x, const float* codes, int64_t* ids, float* distance,
                  int64_t* counts, float* sums, int64_t N, int64_t K, int64_t D, int64_t n_threads);

// words[b, n] = the Philox words of sample[b] at position n, see philox.h
// sample (B), words (B, N, 4) in [0, 2^32): int64, since PyTorch cannot shift or gather uint32
void philox(uint64_t key, const int64_t* sample_B, int64_t B, int64_t N, uint32_t stream,
            uint32_t step, uint32_t band, int64_t* words_BN4);

}  // namespace tsgen::cpu
