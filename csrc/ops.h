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

// out[b, m, h] = the values' mean, weighted by softmax(q·k / sqrt(D)), see attention.py
// q (B, H, M, D), k and v (B, H, N, D) with the strides given, rows contiguous; null_kv (2, H, D);
// q_scale and k_scale (D); lengths (B); out (B, M, H, D), and so the gradients. What is optional
// may be null. Backward: the gradients of all of them but lengths.
void attention(const float* q, const float* k, const float* v, const float* null_kv,
               const float* q_scale, const float* k_scale, const int64_t* lengths, float* out,
               int64_t q_b, int64_t q_h, int64_t q_m, int64_t k_b, int64_t k_h, int64_t k_n,
               int64_t v_b, int64_t v_h, int64_t v_n, int64_t B, int64_t H, int64_t M, int64_t N,
               int64_t D, int64_t n_threads);
void attention_backward(const float* grad_out, const float* q, const float* k, const float* v,
                        const float* null_kv, const float* q_scale, const float* k_scale,
                        const int64_t* lengths, float* grad_q, float* grad_k, float* grad_v,
                        float* grad_null_kv, float* grad_q_scale, float* grad_k_scale, int64_t g_b,
                        int64_t g_h, int64_t g_m, int64_t q_b, int64_t q_h, int64_t q_m,
                        int64_t k_b, int64_t k_h, int64_t k_n, int64_t v_b, int64_t v_h,
                        int64_t v_n, int64_t B, int64_t H, int64_t M, int64_t N, int64_t D,
                        int64_t n_threads);
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
                          const int64_t* rows, const int64_t* target, float* loss, int64_t M,
                          int64_t R, int64_t K, int64_t D, int64_t n_threads);
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

// y = W D(s(x)) + b    x (B, C, H, W), y (B, O, H, W')
// s is snake, or nothing where a is null. D convolves each channel by itself: kind 0 not at all
// (taps null), 1 with kernel_rows x 3 taps and zeros about x, 2 with kernel_rows x 4, stride 2 in W
// and the edges repeated, 3 the transposed convolution of kernel_rows x 4, stride 2; kernel_rows is
// 1 or 3. taps (C, kernel_rows, 3 or 4), tap_bias (C), weight (O, C), bias (O). mean and var (O) of
// y over all but its channels, or both null. Backward: the gradients of all of them, grad_mean,
// grad_var, y and mean null without statistics; gradients of what is null are null.
void separable_conv(const float* x, const float* a, const float* gain, const float* shift,
                    const float* taps, const float* tap_bias, const float* weight,
                    const float* bias, float* y, float* mean, float* var, int64_t B, int64_t C,
                    int64_t H, int64_t W, int64_t O, int64_t kernel_rows, int64_t kind,
                    int64_t n_threads);
void separable_conv_backward(const float* grad_y, const float* grad_mean, const float* grad_var,
                             const float* y, const float* mean, const float* x, const float* a,
                             const float* gain, const float* shift, const float* taps,
                             const float* tap_bias, const float* weight, const float* bias,
                             float* grad_x, float* grad_a, float* grad_gain, float* grad_shift,
                             float* grad_taps, float* grad_tap_bias, float* grad_weight,
                             float* grad_bias, int64_t B, int64_t C, int64_t H, int64_t W,
                             int64_t O, int64_t kernel_rows, int64_t kind, int64_t n_threads);

// out = residual + x 2^16 / (2^16 - n_dropped) where an element's draw, 16 bits of Philox, is
// n_dropped or more, else residual, see dropout.py    x, out (n), residual (n) or null, seed (1)
void dropout(const float* x, const int64_t* seed, const float* residual, float* out, int64_t n,
             int64_t n_dropped, int64_t n_threads);

// h = y Φ(y),  y[b, n] = bias + sum_t products[b, source[n + t - T / 2], t], nothing from outside
// products (B, M, T, F), source (N) in [0, M), bias (F), h (B, N, F); mean and var (F) of h over B
// and N. Backward: the gradients of products and bias.
void sum_taps(const float* products, const int64_t* source, const float* bias, float* h,
              float* mean, float* var, int64_t B, int64_t M, int64_t T, int64_t F, int64_t N,
              int64_t n_threads);
void sum_taps_backward(const float* grad_h, const float* grad_mean, const float* grad_var,
                       const float* mean, const float* products, const int64_t* source,
                       const float* bias, float* grad_products, float* grad_bias, int64_t B,
                       int64_t M, int64_t T, int64_t F, int64_t N, int64_t n_threads);

// ids[n] = argmin_k |x[n] - codes[k]|², and that distance    x (N, D), codes (K, D)
// A row that is not finite: id 0, distance NaN. A code that is not is never chosen. counts (K) and
// sums (K, D) of the rows of each code, or both null.
void nearest_code(const float* x, const float* codes, int64_t* ids, float* distance,
                  int64_t* counts, float* sums, int64_t N, int64_t K, int64_t D, int64_t n_threads);

// words[b, n] = the Philox words of sample[b] at position n, see philox.h
// sample (B), words (B, N, 4) in [0, 2^32): int64, since PyTorch cannot shift or gather uint32
void philox(const int64_t* sample, int64_t* words, uint64_t key, int64_t B, int64_t N,
            uint32_t stream, uint32_t step, uint32_t band, int64_t n_threads);

}  // namespace tsgen::cpu
