// The transformer of a prior for a task's sequences, and the scratch memory of all of decoding.
//
// For files in csrc/cpu/simd only, see vectors.h.
#pragma once

#include "engine/prior.h"
#include "simd/attention.h"
#include "simd/gemm.h"
#include "simd/sample_row.h"
#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {

constexpr float LAYER_EPS = 1e-5f, HEAD_EPS = 1e-12f;
constexpr int64_t AT_ONCE = 2 * TILE_ROWS;  // rows whose logits are in the cache together

// out = gain (x - mean) / sqrt(variance + eps) + shift (+ added), of one row
static inline void layer_norm(const float* x, const float* gain_shift, float eps,
                              const float* added, float* out, int64_t D) {
  const int64_t whole = D / LANES * LANES, rest = D - whole;
  Floats total{};
  for (int64_t d = 0; d < whole; d += LANES) total += load(x + d);
  if (rest) total += load_first(x + whole, rest);
  const float mean = sum(total) / (float)D;
  Floats squares{};
  for (int64_t d = 0; d < whole; d += LANES) {
    const Floats off = load(x + d) - mean;
    squares += off * off;
  }
  float tail = 0.0f;
  for (int64_t d = whole; d < D; ++d) tail += (x[d] - mean) * (x[d] - mean);
  const float scale = 1.0f / __builtin_sqrtf((sum(squares) + tail) / (float)D + eps);
  const float *gain = gain_shift, *shift = gain_shift + D;
  for (int64_t d = 0; d < whole; d += LANES) {
    Floats y = (load(x + d) - mean) * scale * load(gain + d) + load(shift + d);
    if (added) y += load(added + d);
    store(out + d, y);
  }
  for (int64_t d = whole; d < D; ++d)
    out[d] = (x[d] - mean) * scale * gain[d] + shift[d] + (added ? added[d] : 0.0f);
}

static inline void gelu_row(float* x, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(x + i, gelu(load(x + i)));
  if (i < n) store_first(x + i, gelu(load_first(x + i, n - i)), n - i);
}

static inline void add_row(float* to, const float* from, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, load(to + i) + load(from + i));
  for (; i < n; ++i) to[i] += from[i];
}

static inline void copy(float* to, const float* from, int64_t n) {
  __builtin_memcpy(to, from, n * sizeof(float));
}

// Where a task's numbers are, sequence after sequence.
struct Workspace {
  float *x, *h;                       // (n T, D)
  float *q, *kv, *mixed, *wide;       // (n T, I), (n T, 2 I), (n T, I), (n T, F)
  float *rows, *none;                 // (n N, D) of masked places, with class and without
  float* attention;                   // of one head
  float* logits;                      // (AT_ONCE, K)
  SampleScratch sampling;             // of one row of them
  float *context, *columns, *mapped;  // (n N, D), (columns and borders, E2), (columns, maps D)
  int64_t* place;                     // (n N): where a masked row is in the task's (n, N)
  float* logp;                        // (n N)
  double* confidence;                 // (N)
  uint8_t* mask;                      // (N)
};

static inline Workspace lay_out_scratch(const PriorSizes& z, int64_t n, Arena& arena) {
  const int64_t T = z.N + 1, I = z.H * z.Dh, rows = n * T, masked = n * z.N;
  const int64_t reach = z.n_low ? z.taps_out / 2 * z.dilation : 0;
  Workspace s;
  s.x = take(arena, rows * z.D), s.h = take(arena, rows * z.D);
  s.q = take(arena, rows * I), s.kv = take(arena, rows * 2 * I), s.mixed = take(arena, rows * I);
  s.wide = take(arena, rows * z.F), s.rows = take(arena, masked * z.D);
  s.attention = take(arena, attend_scratch(T, T + 1, z.Dh));
  s.none = take(arena, masked * z.D), s.logits = take(arena, AT_ONCE * whole_vectors(z.K));
  s.sampling = {take(arena, SampleScratch::n_weights(z.K)),
                (double*)take(arena, 2 * SampleScratch::n_sums(z.K))};
  s.context = take(arena, z.n_low ? masked * z.D : 0);
  s.columns = take(arena, z.n_low ? (z.n_columns + 2 * reach) * z.E2 : 0);
  s.mapped = take(arena, z.n_low ? z.n_columns * z.n_maps * z.D : 0);
  s.place = (int64_t*)take(arena, 2 * masked), s.logp = take(arena, masked);
  s.confidence = (double*)take(arena, 2 * z.N), s.mask = (uint8_t*)take(arena, z.N);
  return s;
}

// mixed[m] = attention of M queries of one sequence over its T tokens and the null key
static inline void attend(const LayerWeights& w, const PriorSizes& z, const float* q,
                          const float* kv, int64_t M, Workspace& s, float* mixed) {
  const int64_t T = z.N + 1, I = z.H * z.Dh;
  for (int64_t i = 0; i < I; i += z.Dh) {
    const AttentionHead head{q + i,   kv + i, kv + I + i, w.null_k + i, w.null_v + i,
                             w.scale, I,      2 * I,      2 * I,        M,
                             T,       T + 1,  z.Dh};
    attend_head(head, nullptr, mixed + i, I, s.attention);
  }
}

// x += feed-forward(x) and h is lost, for `rows` rows.
static inline void feed_forward(const LayerWeights& w, const PriorSizes& z, float* x, int64_t rows,
                                Workspace& s) {
  for (int64_t r = 0; r < rows; ++r)
    layer_norm(x + r * z.D, w.norm_ff, LAYER_EPS, nullptr, s.h + r * z.D, z.D);
  gemm(s.h, z.D, w.up, nullptr, s.wide, z.F, rows, z.F, z.D);
  gelu_row(s.wide, rows * z.F);
  for (int64_t r = 0; r < rows; ++r)
    layer_norm(s.wide + r * z.F, w.norm_mid, LAYER_EPS, nullptr, s.wide + r * z.F, z.F);
  gemm(s.wide, z.F, w.down, nullptr, s.h, z.D, rows, z.D, z.F);
  add_row(x, s.h, rows * z.D);
}

// out[r] = norm_out(mixed W) + x[r]
static inline void project_out(const LayerWeights& w, const PriorSizes& z, const float* x,
                               int64_t rows, Workspace& s, float* out) {
  const int64_t I = z.H * z.Dh;
  gemm(s.mixed, I, w.out, nullptr, s.h, z.D, rows, z.D, I);
  for (int64_t r = 0; r < rows; ++r)
    layer_norm(s.h + r * z.D, w.norm_out, LAYER_EPS, x + r * z.D, out + r * z.D, z.D);
}

static inline void layer(const LayerWeights& w, const PriorSizes& z, int64_t n, Workspace& s) {
  const int64_t T = z.N + 1, I = z.H * z.Dh, rows = n * T;
  for (int64_t r = 0; r < rows; ++r)
    layer_norm(s.x + r * z.D, w.norm_in, LAYER_EPS, nullptr, s.h + r * z.D, z.D);
  gemm(s.h, z.D, w.q, nullptr, s.q, I, rows, I, z.D);
  gemm(s.h, z.D, w.kv, nullptr, s.kv, 2 * I, rows, 2 * I, z.D);
  for (int64_t b = 0; b < n; ++b)
    attend(w, z, s.q + b * T * I, s.kv + b * T * 2 * I, T, s, s.mixed + b * T * I);
  project_out(w, z, s.x, rows, s, s.x);
  feed_forward(w, z, s.x, rows, s);
}

// The last layer, for the R masked rows only, into s.rows.
static inline void last_layer(const LayerWeights& w, const PriorSizes& z, int64_t n, int64_t R,
                              Workspace& s) {
  const int64_t T = z.N + 1, I = z.H * z.Dh;
  for (int64_t r = 0; r < n * T; ++r)
    layer_norm(s.x + r * z.D, w.norm_in, LAYER_EPS, nullptr, s.h + r * z.D, z.D);
  gemm(s.h, z.D, w.kv, nullptr, s.kv, 2 * I, n * T, 2 * I, z.D);
  for (int64_t r = 0; r < R; ++r) {  // ascending, so a row moves to where no later one is read
    const int64_t at = s.place[r] + s.place[r] / z.N + 1;
    __builtin_memmove(s.h + r * z.D, s.h + at * z.D, z.D * sizeof(float));
    copy(s.rows + r * z.D, s.x + at * z.D, z.D);
  }
  gemm(s.h, z.D, w.q, nullptr, s.q, I, R, I, z.D);
  for (int64_t b = 0, r = 0; b < n; ++b) {
    int64_t end = r;
    while (end < R && s.place[end] / z.N == b) ++end;
    if (end > r) attend(w, z, s.q + r * I, s.kv + b * T * 2 * I, end - r, s, s.mixed + r * I);
    r = end;
  }
  project_out(w, z, s.rows, R, s, s.rows);
  feed_forward(w, z, s.rows, R, s);
}

// s.rows[r] = what the head's last layer gets for masked row r, from ids and a class per sequence.
static inline void transform(const PriorWeights& w, int64_t n, const int64_t* ids,
                             const int64_t* class_id, const float* context, int64_t R,
                             Workspace& s) {
  const PriorSizes& z = w.sizes;
  const int64_t T = z.N + 1;
  for (int64_t b = 0; b < n; ++b) {
    float* row = s.x + b * T * z.D;
    copy(row, w.classes + class_id[b] * z.D, z.D);
    for (int64_t i = b * z.N; i < (b + 1) * z.N; ++i) {
      row += z.D;
      copy(row, w.tokens + ids[i] * z.D, z.D);
      add_row(row, w.places + (i - b * z.N) * z.D, z.D);
      if (context) add_row(row, context + i * z.D, z.D);
    }
  }
  for (int64_t l = 0; l + 1 < z.n_layers; ++l) layer(w.layer[l], z, n, s);
  last_layer(w.layer[z.n_layers - 1], z, n, R, s);
  gemm(s.rows, z.D, w.head_in, w.head_in_bias, s.h, z.D, R, z.D, z.D);
  gelu_row(s.h, R * z.D);
  for (int64_t r = 0; r < R; ++r)
    layer_norm(s.h + r * z.D, w.head_norm, HEAD_EPS, nullptr, s.rows + r * z.D, z.D);
}

}  // namespace tsgen::cpu::TSGEN_ISA
