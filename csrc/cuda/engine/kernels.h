// The engine's own kernels, on one screen; its other ones are ops of ops_cuda.h.
//
// All of it is float32 on the device, dense, channels last: an image is (n, rows, columns, C).
// Every number is one thread's sum in a fixed order, or a warp's, so that a series depends neither
// on its neighbours nor on how many there are. Sizes as in tsgen/config.py: S sequences (2 n where
// both passes of guidance run, those without a class behind), T = N + 1 rows of each with the class
// first, M masked places of each, -1 where it has fewer.
#pragma once

#include <cstdint>

#include "cuda/machine/device.h"

namespace tsgen::cuda {

// What follows a product, in this order.
struct After {
  const float* bias = nullptr;   // (N)
  bool gelu = false;             // see machine/functions.cuh
  const float* added = nullptr;  // as `out`, which it may be
};

// out (M, N) = x (M, K) Wᵀ, W (N, K)
void linear(const Launch& on, const float* x, const float* weight, const After& after, float* out,
            int64_t M, int64_t N, int64_t K);
// out (M, D) = gain (x - mean) / sqrt(variance + eps) + shift (+ added); `out` may be any of them
void layer_norm(const Launch& on, const float* x, const float* gain_shift, float eps,
                const float* added, float* out, int64_t M, int64_t D);
// out (M, D) = x / |x|; `out` may be x
void unit_rows(const Launch& on, const float* x, float* out, int64_t M, int64_t D);
// x (M, D) becomes what levels.h has, levels (D)
void bound_rows(const Launch& on, float* x, const int64_t* levels, int64_t M, int64_t D);
// Attention as the op, for heads of more dims than it takes: q (S, M, H, Dh), its rows q_stride
// apart; k and v (S, T, H, Dh), kv_stride apart; null_kv (2, H, Dh); scale (Dh) of q times that
// of k. out (S, M, H, Dh).
void attend_wide(const Launch& on, const float* q, const float* k, const float* v,
                 const float* null_kv, const float* scale, float* out, int64_t q_stride,
                 int64_t kv_stride, int64_t S, int64_t H, int64_t M, int64_t T, int64_t Dh);

// ---- Tokens: csrc/cuda/engine/tokens.cu ----------------------------------------------------

// places (n, M) = where ids (n, N) are `mask_id`, ascending
void find_masked(const Launch& on, const int64_t* ids, int64_t mask_id, int32_t* places, int64_t n,
                 int64_t N, int64_t M);

// What places of the high band get of the low one: row place_source[i][0] of a sequence's `pitch`
// and map place_source[i][1] of mapped (n, pitch, n_maps, D). Nothing where mapped is null.
struct Context {
  const float* mapped;
  const int64_t* place_source;  // (N, 2)
  int64_t pitch, n_maps;
};
// x (S, T, D) = a class's row (n_classes + 1, D), then a token's (K + 1, D) + place's (N, D) +
// context. class_id (n); sequences from n on have none, which is class n_classes.
void embed(const Launch& on, const int64_t* ids, const int64_t* class_id, const float* classes,
           const float* tokens, const float* positions, const Context& context, float* x, int64_t n,
           int64_t S, int64_t N, int64_t D, int64_t n_classes);
// to (S, M, D) = rows of from (S, T, D) at places (n, M); the first place for -1
void gather_rows(const Launch& on, const float* from, const int32_t* places, float* to, int64_t n,
                 int64_t S, int64_t N, int64_t M, int64_t D);
// rows (count) = none + guidance (rows - none)
void guide(const Launch& on, float* rows, const float* none, float guidance, int64_t count);

// Where a step's random numbers come from, see philox.h.
struct DrawKeys {
  uint64_t seed;
  const int64_t* index;  // (n)
  uint32_t step, band;
};
// u (n, M), in (0, 1)
void draw_uniforms(const Launch& on, const DrawKeys& draws, const int32_t* places, double* u,
                   int64_t n, int64_t M);
// confidence (n, M) = logp + noise * Gumbel, infinite where there is no place. *invalid becomes 1
// if a logp of a place is not finite.
void take_confidence(const Launch& on, const DrawKeys& draws, const int32_t* places,
                     const float* logp, double noise, double* confidence, int32_t* invalid,
                     int64_t n, int64_t M);
// ids (n, N) at places = drawn (n, M), or `mask_id` where masked (n, M)
void put_tokens(const Launch& on, const int32_t* places, const int64_t* drawn,
                const uint8_t* masked, int64_t mask_id, int64_t* ids, int64_t n, int64_t N,
                int64_t M);

// ---- Convolutions: csrc/cuda/engine/convolution.cu -----------------------------------------

struct Grid {
  int64_t n, rows, columns;
  int64_t positions() const { return n * rows * columns; }
};

// columns (n, n_columns + 2 reach, E): gain gelu(bias + sum of tables) + shift, zeros in `reach`
// columns on each side, and in `reach` more of them behind all. tables (taps, K, E), low (n, n_low)
void context_columns(const Launch& on, const int64_t* low, const int64_t* column_token,
                     const float* tables, const float* bias, const float* gain_shift,
                     float* columns, int64_t n, int64_t n_low, int64_t n_columns, int64_t reach,
                     int64_t taps, int64_t K, int64_t E);

// Each channel by itself, taps (kernel_rows, 3 or 4, C): see ops/separable_conv.py.
enum class Taps { same, halve, twice };
void depthwise(const Launch& on, Taps kind, const float* x, const float* taps, const float* bias,
               float* out, Grid grid, int64_t C, int64_t kernel_rows);
// Each column becomes two and channels are mixed: taps (kernel_rows, 4, O, C), here C = O.
void spread_dense(const Launch& on, const float* x, const float* taps, const float* bias,
                  float* out, Grid grid, int64_t C, int64_t kernel_rows);
// out (positions, C) = bias + sum of tables (kernel_rows, 3, K, C) over the ids (positions) around
// each, zeros outside; skip (positions, C) = rows of skip_table (K, C)
void look_up(const Launch& on, const int64_t* ids, const float* tables, const float* bias,
             const float* skip_table, float* out, float* skip, Grid grid, int64_t K, int64_t C,
             int64_t kernel_rows);
// series (n, G / 2, L) = sum over the n_taps frames from sample_frame (L) on, weights (L, n_taps,
// rows, 2) of planes (n, rows, columns, G); added to it if not `first`
void to_series(const Launch& on, const float* planes, const float* weights,
               const int64_t* sample_frame, float* series, Grid grid, int64_t G, int64_t L,
               int64_t n_taps, bool first);
// out (n, P, C) of planes (n, C, P)
void channels_last(const Launch& on, const float* planes, float* out, int64_t n, int64_t C,
                   int64_t P);

}  // namespace tsgen::cuda
