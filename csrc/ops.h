// Every native kernel, on one screen. Raw pointers, contiguous; no PyTorch, no Python.
#pragma once

#include <cstdint>

namespace tsgen::cpu {

// planes[i] = F rows of the spectrogram of x[i], from row `first` on, real parts before imaginary
// x (N, L), reflected at its borders; window (W); planes (N, 2, F, T)
void stft(const float* x, const float* window, float* planes, int64_t N, int64_t L, int64_t W,
          int64_t hop, int64_t first, int64_t F, int64_t T, int64_t n_threads);
void stft_backward(const float* grad_planes, const float* window, float* grad_x, int64_t N,
                   int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T,
                   int64_t n_threads);

// x[i] = the series whose spectrogram is closest to planes[i], other rows 0; shapes as above
void istft(const float* planes, const float* window, float* x, int64_t N, int64_t L, int64_t W,
           int64_t hop, int64_t first, int64_t F, int64_t T, int64_t n_threads);
void istft_backward(const float* grad_x, const float* window, float* grad_planes, int64_t N,
                    int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T,
                    int64_t n_threads);

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
