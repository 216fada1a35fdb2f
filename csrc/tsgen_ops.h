/* The ops of tsgen on the CPU, in C: what tsgen/ops has in Python, and backward of each.
 *
 * As tsgen.h says: dense arrays of the caller, statuses, threads. Shapes stand behind the names; an
 * array that has no number may be null, and so may what is called optional. Outputs are written,
 * not added to, and must not overlap inputs. Dims are B batch, C channels, L samples, F rows of a
 * spectrogram, T frames or taps, N tokens, M queries or rows, D width, H heads or rows of an image,
 * W its columns or a window, O channels out, K codes, R masked rows.
 *
 * Every function checks its sizes, and the ids that it reads by; numbers may be NaN.
 */
#ifndef TSGEN_OPS_H
#define TSGEN_OPS_H

#include "tsgen.h"

#ifdef __cplusplus
extern "C" {
#endif

/* planes[n] = F rows of the spectrogram of x[n], from row `first` on, real parts before imaginary;
 * x is reflected at its borders.
 *
 * x (N, L), L above W / 2; window (W); planes (N, 2, F, T), T = 1 + (L + 2 (W / 2) - W) / hop
 */
TSGEN_API tsgen_status tsgen_stft(const float* x, const float* window, float* planes, int64_t N,
                                  int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F,
                                  int64_t T, int32_t n_threads);
TSGEN_API tsgen_status tsgen_stft_backward(const float* grad_planes, const float* window,
                                           float* grad_x, int64_t N, int64_t L, int64_t W,
                                           int64_t hop, int64_t first, int64_t F, int64_t T,
                                           int32_t n_threads);

/* x[n] = the series whose spectrogram is closest to planes[n], other rows 0; shapes as above, L at
 * most (T - 1) hop + (W + 1) / 2.
 */
TSGEN_API tsgen_status tsgen_istft(const float* planes, const float* window, float* x, int64_t N,
                                   int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F,
                                   int64_t T, int32_t n_threads);
TSGEN_API tsgen_status tsgen_istft_backward(const float* grad_x, const float* window,
                                            float* grad_planes, int64_t N, int64_t L, int64_t W,
                                            int64_t hop, int64_t first, int64_t F, int64_t T,
                                            int32_t n_threads);

/* ids[n] = argmin_k |x[n] - codes[k]|², the lowest on a tie, and that distance. A row that is not
 * finite gets id 0 and distance NaN; a code that is not is never chosen.
 *
 * x (N, D), codes (K, D), K from 1 on; ids and distance (N); counts (K) and sums (K, D) of the rows
 * of each code, both or neither
 */
TSGEN_API tsgen_status tsgen_nearest_code(const float* x, const float* codes, int64_t* ids,
                                          float* distance, int64_t* counts, float* sums, int64_t N,
                                          int64_t K, int64_t D, int32_t n_threads);

/* out = y + sin²(a y) / a,  y = gain x + shift. Backward: the gradients of all of them.
 *
 * x and out (B, C, S); a, gain, shift (C), the last two both or neither, and so their gradients
 */
TSGEN_API tsgen_status tsgen_snake(const float* x, const float* a, const float* gain,
                                   const float* shift, float* out, int64_t B, int64_t C, int64_t S,
                                   int32_t n_threads);
TSGEN_API tsgen_status tsgen_snake_backward(const float* grad_out, const float* x, const float* a,
                                            const float* gain, const float* shift, float* grad_x,
                                            float* grad_a, float* grad_gain, float* grad_shift,
                                            int64_t B, int64_t C, int64_t S, int32_t n_threads);

typedef int64_t tsgen_taps;
enum {
  TSGEN_TAPS_NONE = 0,  /* no depthwise convolution; W' = W */
  TSGEN_TAPS_SAME = 1,  /* kernel_rows x 3, zeros about x; W' = W */
  TSGEN_TAPS_HALVE = 2, /* kernel_rows x 4, stride 2 in W, the edges repeated; W' = W / 2 */
  TSGEN_TAPS_TWICE = 3  /* the transposed convolution of kernel_rows x 4, stride 2; W' = 2 W */
};

/* y = weight D(s(x)) + bias: s is snake, or nothing without a; D convolves each channel by itself.
 * Backward: the gradients of all of them.
 *
 * x (B, C, H, W), y (B, O, H, W'); a (C), gain and shift (C) optional, as in tsgen_snake; taps
 * (C, kernel_rows, 3 or 4) and tap_bias (C), neither for TSGEN_TAPS_NONE; weight (O, C), bias (O);
 * kernel_rows 1 or 3; mean and var (O) of y over all but its channels, both or neither. Backward
 * takes grad_mean, grad_var, y and mean where there were statistics, all or none; gradients of what
 * is null are null.
 */
TSGEN_API tsgen_status tsgen_separable_conv(const float* x, const float* a, const float* gain,
                                            const float* shift, const float* taps,
                                            const float* tap_bias, const float* weight,
                                            const float* bias, float* y, float* mean, float* var,
                                            int64_t B, int64_t C, int64_t H, int64_t W, int64_t O,
                                            int64_t kernel_rows, tsgen_taps kind,
                                            int32_t n_threads);
TSGEN_API tsgen_status tsgen_separable_conv_backward(
    const float* grad_y, const float* grad_mean, const float* grad_var, const float* y,
    const float* mean, const float* x, const float* a, const float* gain, const float* shift,
    const float* taps, const float* tap_bias, const float* weight, const float* bias, float* grad_x,
    float* grad_a, float* grad_gain, float* grad_shift, float* grad_taps, float* grad_tap_bias,
    float* grad_weight, float* grad_bias, int64_t B, int64_t C, int64_t H, int64_t W, int64_t O,
    int64_t kernel_rows, tsgen_taps kind, int32_t n_threads);

/* out[b, m, h] = the values' mean, weighted by softmax(q·k / sqrt(D)) over lengths[b] keys and a
 * null key; q and k are normalised to the lengths given, or not. Backward: the gradients of all of
 * them but lengths, those of what is null being null.
 *
 * q (B, H, M, D), k and v (B, H, N, D), their rows dense, *_b, *_h, *_m and *_n numbers apart;
 * null_kv (2, H, D) optional; q_scale and k_scale (D), both or neither; lengths (B) optional, 0 to
 * N; out (B, M, H, D). Backward: grad_out (B, H, M, D) with strides g_*, grad_q (B, M, H, D),
 * grad_k and grad_v (B, N, H, D)
 */
TSGEN_API tsgen_status tsgen_attention(const float* q, const float* k, const float* v,
                                       const float* null_kv, const float* q_scale,
                                       const float* k_scale, const int64_t* lengths, float* out,
                                       int64_t q_b, int64_t q_h, int64_t q_m, int64_t k_b,
                                       int64_t k_h, int64_t k_n, int64_t v_b, int64_t v_h,
                                       int64_t v_n, int64_t B, int64_t H, int64_t M, int64_t N,
                                       int64_t D, int32_t n_threads);
TSGEN_API tsgen_status tsgen_attention_backward(
    const float* grad_out, const float* q, const float* k, const float* v, const float* null_kv,
    const float* q_scale, const float* k_scale, const int64_t* lengths, float* grad_q,
    float* grad_k, float* grad_v, float* grad_null_kv, float* grad_q_scale, float* grad_k_scale,
    int64_t g_b, int64_t g_h, int64_t g_m, int64_t q_b, int64_t q_h, int64_t q_m, int64_t k_b,
    int64_t k_h, int64_t k_n, int64_t v_b, int64_t v_h, int64_t v_n, int64_t B, int64_t H,
    int64_t M, int64_t N, int64_t D, int32_t n_threads);

/* ids[r] = the first k with  sum_{j<=k} p_j > u[r] sum_j p_j,  p = softmax(l / temperature) cut to
 * top_k and top_p,  l = h weightᵀ + bias;  logp[r] = log softmax(l)[ids[r]]. Where there is no such
 * law, id 0 and logp NaN.
 *
 * h (R, D), u (R) in (0, 1), weight (K, D), bias (K) optional; without weight h is l, and K is D
 * temperature from 0 on, top_k 0 for all, top_p above 0 and at most 1
 */
TSGEN_API tsgen_status tsgen_sample_code(const float* h, const double* u, const float* weight,
                                         const float* bias, int64_t* ids, float* logp, int64_t R,
                                         int64_t D, int64_t K, double temperature, int64_t top_k,
                                         double top_p, int32_t n_threads);

/* masked[b] = 1 at the n_masked[b] lowest confidences of row b, 0 elsewhere; on a tie the lower
 * position stays 0; NaN is as low as -inf.
 *
 * confidence (B, N) of n_bytes each, 4 for float, 8 for double; n_masked (B), 0 to N; masked (B, N)
 */
TSGEN_API tsgen_status tsgen_keep_confident(const void* confidence, const int64_t* n_masked,
                                            uint8_t* masked, int64_t B, int64_t N, int64_t n_bytes,
                                            int32_t n_threads);

/* loss = mean over r of -log softmax(h[rows[r]] weightᵀ + bias)[target[r]], 0 where R is 0.
 * Backward: the loss and its gradients in one pass.
 *
 * h (M, D), weight (K, D), bias (K) optional, and so grad_bias; rows (R) distinct, below M; target
 * (R) below K; loss (1)
 */
TSGEN_API tsgen_status tsgen_masked_cross_entropy(const float* h, const float* weight,
                                                  const float* bias, const int64_t* rows,
                                                  const int64_t* target, float* loss, int64_t M,
                                                  int64_t R, int64_t K, int64_t D,
                                                  int32_t n_threads);
TSGEN_API tsgen_status tsgen_masked_cross_entropy_backward(const float* h, const float* weight,
                                                           const float* bias, const int64_t* rows,
                                                           const int64_t* target, float* loss,
                                                           float* grad_h, float* grad_weight,
                                                           float* grad_bias, int64_t M, int64_t R,
                                                           int64_t K, int64_t D, int32_t n_threads);

/* out = residual + x 2^16 / (2^16 - n_dropped) where an element's draw, 16 bits of Philox, is
 * n_dropped or more, else residual. The gradient of x: the same with grad_out as x.
 *
 * x, out and residual, which is optional, (n); seed (1); n_dropped 0 to 65535
 */
TSGEN_API tsgen_status tsgen_dropout(const float* x, const int64_t* seed, const float* residual,
                                     float* out, int64_t n, int64_t n_dropped, int32_t n_threads);

/* h = y Φ(y),  y[b, n] = bias + sum_t products[b, source[n + t - T / 2], t], nothing from outside.
 * Backward: the gradients of products and bias.
 *
 * products (B, M, T, F), source (N) below M, bias (F), h (B, N, F); mean and var (F) of h over B
 * and N. No size is 0.
 */
TSGEN_API tsgen_status tsgen_sum_taps(const float* products, const int64_t* source,
                                      const float* bias, float* h, float* mean, float* var,
                                      int64_t B, int64_t M, int64_t T, int64_t F, int64_t N,
                                      int32_t n_threads);
TSGEN_API tsgen_status tsgen_sum_taps_backward(const float* grad_h, const float* grad_mean,
                                               const float* grad_var, const float* mean,
                                               const float* products, const int64_t* source,
                                               const float* bias, float* grad_products,
                                               float* grad_bias, int64_t B, int64_t M, int64_t T,
                                               int64_t F, int64_t N, int32_t n_threads);

/* words[b, n] = the Philox4x32-10 words of sample[b] at position n, in [0, 2^32).
 *
 * sample (B), words (B, N, 4); N at most 2^24, stream below 2^8, step and band below 2^16
 */
TSGEN_API tsgen_status tsgen_philox(const int64_t* sample, int64_t* words, uint64_t key, int64_t B,
                                    int64_t N, uint32_t stream, uint32_t step, uint32_t band,
                                    int32_t n_threads);

#ifdef __cplusplus
}
#endif

#endif
