// A prior's iterative decoding, sequence by sequence in the caches; once per instruction set.
//
// The law is that of tsgen/sampler.py. What does not change between steps is folded into tables
// before (tsgen/engine_cpu.py); the last layer's queries, the head and the draw run only where a
// token is masked. Every row's sums run in a fixed order, so no sequence depends on its neighbours.
#include "engine/prior.h"

#include "philox.h"
#include "simd/attention.h"
#include "simd/gemm.h"
#include "simd/keep_row.h"
#include "simd/sample_row.h"
#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

constexpr float LAYER_EPS = 1e-5f, HEAD_EPS = 1e-12f;
constexpr int64_t AT_ONCE = 2 * TILE_ROWS;  // rows whose logits are in the cache together

int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// out = gain (x - mean) / sqrt(variance + eps) + shift (+ added), of one row
void layer_norm(const float* x, const float* gain_shift, float eps, const float* added, float* out,
                int64_t D) {
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

void gelu_row(float* x, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(x + i, gelu(load(x + i)));
  if (i < n) store_first(x + i, gelu(load_first(x + i, n - i)), n - i);
}

void add_row(float* to, const float* from, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, load(to + i) + load(from + i));
  for (; i < n; ++i) to[i] += from[i];
}

void copy(float* to, const float* from, int64_t n) {
  __builtin_memcpy(to, from, n * sizeof(float));
}

// Where a task's numbers are: rows of sequence after sequence.
struct Scratch {
  float *x, *h, *q, *kv, *mixed, *wide,
      *rows;             // (n T, D) x 2, (n T, I), 2 I, I, F; masked (n N, D)
  float* attention;      // of one head
  float *none, *logits;  // (n N, D) without class; one block of the head
  SampleScratch sampling;
  float *context, *columns, *mapped;  // (n N, D); (columns + borders, E2); (columns, maps D)
  int64_t* place;                     // masked rows: position in the task's (n, N)
  float* logp;                        // (n N)
  double* confidence;                 // (N)
  uint8_t* mask;                      // (N)
};

Scratch lay_out_scratch(const PriorSizes& z, int64_t n, Arena& arena) {
  const int64_t T = z.N + 1, I = z.H * z.Dh, rows = n * T, masked = n * z.N;
  const int64_t reach = z.n_low ? z.taps_out / 2 * z.dilation : 0;
  Scratch s;
  s.x = take(arena, rows * z.D), s.h = take(arena, rows * z.D);
  s.q = take(arena, rows * I), s.kv = take(arena, rows * 2 * I), s.mixed = take(arena, rows * I);
  s.wide = take(arena, rows * z.F), s.rows = take(arena, masked * z.D);
  s.attention = take(arena, attend_scratch(T, T + 1, z.Dh));
  s.none = take(arena, masked * z.D), s.logits = take(arena, AT_ONCE * padded(z.K));
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
void attend(const LayerWeights& w, const PriorSizes& z, const float* q, const float* kv, int64_t M,
            Scratch& s, float* mixed) {
  const int64_t T = z.N + 1, I = z.H * z.Dh;
  for (int64_t i = 0; i < I; i += z.Dh) {
    const AttentionHead head{q + i,   kv + i, kv + I + i, w.null_k + i, w.null_v + i,
                             w.scale, I,      2 * I,      2 * I,        M,
                             T,       T + 1,  z.Dh};
    attend_head(head, nullptr, mixed + i, I, s.attention);
  }
}

// x += feed-forward(x) and h is lost, for `rows` rows.
void feed_forward(const LayerWeights& w, const PriorSizes& z, float* x, int64_t rows, Scratch& s) {
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
void project_out(const LayerWeights& w, const PriorSizes& z, const float* x, int64_t rows,
                 Scratch& s, float* out) {
  const int64_t I = z.H * z.Dh;
  gemm(s.mixed, I, w.out, nullptr, s.h, z.D, rows, z.D, I);
  for (int64_t r = 0; r < rows; ++r)
    layer_norm(s.h + r * z.D, w.norm_out, LAYER_EPS, x + r * z.D, out + r * z.D, z.D);
}

void layer(const LayerWeights& w, const PriorSizes& z, int64_t n, Scratch& s) {
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
void last_layer(const LayerWeights& w, const PriorSizes& z, int64_t n, int64_t R, Scratch& s) {
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
void transform(const PriorWeights& w, int64_t n, const int64_t* ids, const int64_t* class_id,
               const float* context, int64_t R, Scratch& s) {
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

// s.context[n, d]: what each place of the high band gets of one sequence's low tokens.
void see_low(const PriorWeights& w, const int64_t* low, Scratch& s, float* context) {
  const PriorSizes& z = w.sizes;
  const int64_t reach = z.taps_out / 2 * z.dilation, width = z.n_maps * z.D;
  __builtin_memset(s.columns, 0, reach * z.E2 * sizeof(float));
  __builtin_memset(s.columns + (reach + z.n_columns) * z.E2, 0, reach * z.E2 * sizeof(float));
  for (int64_t c = 0; c < z.n_columns; ++c) {
    float* const row = s.columns + (reach + c) * z.E2;
    copy(row, w.bias_in, z.E2);
    for (int64_t tap = 0; tap < z.taps_in; ++tap) {
      const int64_t at = c + tap - z.taps_in / 2;
      if (at < 0 || at >= z.n_columns) continue;
      const int64_t code = low[w.column_token[at]];
      add_row(row, w.tables + (tap * z.K_low + code) * z.E2, z.E2);
    }
    gelu_row(row, z.E2);
    for (int64_t e = 0; e < z.E2; ++e) row[e] = row[e] * w.norm[e] + w.norm[z.E2 + e];
  }
  for (int64_t tap = 0; tap < z.taps_out; ++tap) {
    const float* const a = s.columns + tap * z.dilation * z.E2;
    const float* const packed = w.taps + tap * packed_size(width, z.E2);
    gemm_from(tap ? Start::c : Start::bias, a, z.E2, packed, w.bias_out, s.mapped, width,
              z.n_columns, width, z.E2);
  }
  for (int64_t i = 0; i < z.N; ++i) {
    const int64_t column = w.place_source[2 * i], map = w.place_source[2 * i + 1];
    copy(context + i * z.D, s.mapped + column * width + map * z.D, z.D);
  }
}

double uniform(uint32_t high, uint32_t low) {
  return ((double)((uint64_t)high << 20 | low >> 12) + 0.5) * 0x1p-52;
}

// The masked rows of all sequences, ascending; how many.
int64_t find_masked(const PriorSizes& z, const PriorTask& task, Scratch& s) {
  int64_t R = 0;
  for (int64_t i = 0; i < task.n * z.N; ++i)
    if (task.ids[i] == z.K) s.place[R++] = i;
  return R;
}

// Draws the masked rows' tokens from s.rows, into ids and s.logp. False if a logit is not finite.
bool draw(const PriorWeights& w, const Settings& settings, const PriorTask& task, int64_t step,
          int64_t R, Scratch& s) {
  const PriorSizes& z = w.sizes;
  const int64_t stride = padded(z.K);
  const SampleSettings how{settings.temperature, settings.top_k, settings.top_p};
  bool finite = true;
  for (int64_t r0 = 0; r0 < R; r0 += AT_ONCE) {
    const int64_t rows = R - r0 < AT_ONCE ? R - r0 : AT_ONCE;
    gemm(s.rows + r0 * z.D, z.D, w.head, w.head_bias, s.logits, stride, rows, z.K, z.D);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = s.place[r0 + r];
      const PhiloxWords words = philox_at(settings.seed, task.index[at / z.N], (uint32_t)(at % z.N),
                                          0, (uint32_t)step, (uint32_t)settings.band);
      const double u = uniform(words.word[0], words.word[1]);
      const SampledCode drawn = sample_row(s.logits + r * stride, u, how, s.sampling, z.K);
      task.ids[at] = drawn.id, s.logp[r0 + r] = drawn.logp;
      finite = finite && drawn.logp - drawn.logp == 0;
    }
  }
  return finite;
}

// Masks the least confident of one sequence's newly drawn tokens again: those at s.place[r..end).
void mask_again(const PriorWeights& w, const Settings& settings, const PriorTask& task,
                int64_t step, int64_t r, int64_t end, int64_t n_masked, Scratch& s) {
  const int64_t N = w.sizes.N, b = s.place[r] / N;
  const double noise =
      settings.choice_temperature * (1 - (double)(step + 1) / (double)settings.steps);
  for (int64_t i = r; i < end; ++i) {
    double confidence = (double)s.logp[i];
    if (noise != 0) {
      const PhiloxWords words = philox_at(settings.seed, task.index[b], (uint32_t)(s.place[i] % N),
                                          0, (uint32_t)step, (uint32_t)settings.band);
      const double v = uniform(words.word[2], words.word[3]);
      confidence -= noise * __builtin_log(-__builtin_log(v));
    }
    s.confidence[i - r] = confidence;
  }
  // the positions ascend, so a tie keeps the lower one here too
  keep_doubles(s.confidence, n_masked, s.mask, end - r);
  for (int64_t i = r; i < end; ++i)
    if (s.mask[i - r]) task.ids[s.place[i]] = w.sizes.K;
}

// s.rows of the first step, where nothing is known: the same for all sequences of a class.
void start_rows(const PriorWeights& w, const PriorTask& task, const float* start, int64_t R,
                Scratch& s) {
  const PriorSizes& z = w.sizes;
  for (int64_t r = 0; r < R; ++r) {
    const int64_t n = s.place[r] % z.N, class_id = task.class_id[s.place[r] / z.N];
    copy(s.rows + r * z.D, start + (class_id * z.N + n) * z.D, z.D);
    copy(s.none + r * z.D, start + (z.n_classes * z.N + n) * z.D, z.D);
  }
}

// s.rows = none + guidance (rows - none)
void guide(float guidance, int64_t n, Scratch& s) {
  for (int64_t i = 0; i < n; ++i) s.rows[i] = s.none[i] + guidance * (s.rows[i] - s.none[i]);
}

}  // namespace

PriorWeights lay_out_prior(const PriorSizes& z, LayerWeights* layers, Arena& arena) {
  const int64_t I = z.H * z.Dh, width = z.n_maps * z.D;
  PriorWeights w{};
  w.sizes = z, w.layer = layers;
  w.tokens = take(arena, (z.K + 1) * z.D), w.places = take(arena, z.N * z.D);
  w.classes = take(arena, (z.n_classes + 1) * z.D);
  for (int64_t l = 0; l < z.n_layers; ++l) {
    LayerWeights& layer = layers[l];
    layer.norm_in = take(arena, 2 * z.D);
    layer.q = take(arena, packed_size(I, z.D)), layer.kv = take(arena, packed_size(2 * I, z.D));
    layer.null_k = take(arena, I), layer.null_v = take(arena, I);
    layer.scale = take(arena, z.Dh + MOST_LANES);
    layer.out = take(arena, packed_size(z.D, I)), layer.norm_out = take(arena, 2 * z.D);
    layer.norm_ff = take(arena, 2 * z.D), layer.up = take(arena, packed_size(z.F, z.D));
    layer.norm_mid = take(arena, 2 * z.F), layer.down = take(arena, packed_size(z.D, z.F));
  }
  w.head_in = take(arena, packed_size(z.D, z.D)), w.head_in_bias = take(arena, z.D);
  w.head_norm = take(arena, 2 * z.D);
  w.head = take(arena, packed_size(z.K, z.D)), w.head_bias = take(arena, z.K);
  if (z.n_low) {
    w.tables = take(arena, z.taps_in * z.K_low * z.E2), w.bias_in = take(arena, z.E2);
    w.norm = take(arena, 2 * z.E2);
    w.taps = take(arena, z.taps_out * packed_size(width, z.E2)), w.bias_out = take(arena, width);
  }
  return w;
}

// `flat`: the arrays of lay_out_prior in its order, matrices as (outputs, inputs), q before kv.
void pack_prior(const PriorWeights& w, const float* flat) {
  const PriorSizes& z = w.sizes;
  const int64_t I = z.H * z.Dh, width = z.n_maps * z.D;
  const auto plain = [&](float* to, int64_t n) { copy(to, flat, n), flat += n; };
  const auto matrix = [&](float* to, int64_t N, int64_t K) {
    pack(flat, 1, K, N, K, to), flat += N * K;
  };
  plain(w.tokens, (z.K + 1) * z.D), plain(w.places, z.N * z.D);
  plain(w.classes, (z.n_classes + 1) * z.D);
  for (int64_t l = 0; l < z.n_layers; ++l) {
    const LayerWeights& layer = w.layer[l];
    plain(layer.norm_in, 2 * z.D), matrix(layer.q, I, z.D), matrix(layer.kv, 2 * I, z.D);
    plain(layer.null_k, I), plain(layer.null_v, I);
    plain(layer.scale, z.Dh);
    matrix(layer.out, z.D, I), plain(layer.norm_out, 2 * z.D), plain(layer.norm_ff, 2 * z.D);
    matrix(layer.up, z.F, z.D), plain(layer.norm_mid, 2 * z.F), matrix(layer.down, z.D, z.F);
  }
  matrix(w.head_in, z.D, z.D), plain(w.head_in_bias, z.D), plain(w.head_norm, 2 * z.D);
  matrix(w.head, z.K, z.D), plain(w.head_bias, z.K);
  if (!z.n_low) return;
  plain(w.tables, z.taps_in * z.K_low * z.E2), plain(w.bias_in, z.E2), plain(w.norm, 2 * z.E2);
  for (int64_t tap = 0; tap < z.taps_out; ++tap)
    matrix(w.taps + tap * packed_size(width, z.E2), width, z.E2);
  plain(w.bias_out, width);
}

int64_t prior_scratch(const PriorSizes& sizes, int64_t n) {
  Arena arena;
  lay_out_scratch(sizes, n, arena);
  return arena.used;
}

void prior_start(const PriorWeights& w, int64_t class_id, float* scratch, float* hidden_ND) {
  const PriorSizes& z = w.sizes;
  Arena arena{scratch, 0};
  Scratch s = lay_out_scratch(z, 1, arena);
  // the confidences' place is free here, and holds N ids
  int64_t* const ids = (int64_t*)s.confidence;
  for (int64_t n = 0; n < z.N; ++n) ids[n] = z.K, s.place[n] = n;
  transform(w, 1, ids, &class_id, nullptr, z.N, s);
  copy(hidden_ND, s.rows, z.N * z.D);
}

bool prior_decode(const PriorWeights& w, const Settings& settings, const PriorTask& task,
                  const float* start, float* scratch, Stop* stop, const void* asked,
                  int64_t thread) {
  const PriorSizes& z = w.sizes;
  Arena arena{scratch, 0};
  Scratch s = lay_out_scratch(z, task.n, arena);
  float* const context = z.n_low ? s.context : nullptr;
  for (int64_t b = 0; b < task.n && context; ++b)
    see_low(w, task.low + b * z.n_low, s, context + b * z.N * z.D);
  const bool guided = settings.guidance != 1 && z.n_classes > 0;
  bool finite = true;
  for (int64_t step = 0; step < settings.steps; ++step) {
    const int64_t R = find_masked(z, task, s);
    if (R == 0 || stop(asked, thread)) break;
    if (start && step == 0 && R == task.n * z.N) {
      start_rows(w, task, start, R, s);
    } else {
      if (guided) {
        transform(w, task.n, task.ids, task.none, context, R, s);
        copy(s.none, s.rows, R * z.D);
      }
      transform(w, task.n, task.ids, task.class_id, context, R, s);
    }
    if (guided) guide((float)settings.guidance, R * z.D, s);
    finite = draw(w, settings, task, step, R, s) && finite;
    for (int64_t r = 0, end; r < R; r = end) {
      const int64_t b = s.place[r] / z.N;
      for (end = r; end < R && s.place[end] / z.N == b;) ++end;
      mask_again(w, settings, task, step, r, end, task.plan[b * settings.steps + step], s);
    }
  }
  return finite;
}

}  // namespace tsgen::cpu::TSGEN_ISA
