// A prior's iterative decoding, sequence by sequence in the caches; once per instruction set.
//
// The law is that of tsgen/sampler.py. What does not change between steps is folded into tables
// before (csrc/model/fold.h); the last layer's queries, the head and the draw run only where a
// token is masked. Every row's sums run in a fixed order, so no sequence depends on its neighbours.
#include "engine/prior.h"

#include "philox.h"
#include "simd/keep_row.h"
#include "simd/transformer.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

// s.context[n, d]: what each place of the high band gets of one sequence's low tokens.
void see_low(const PriorWeights& w, const int64_t* low, Workspace& s, float* context) {
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

// The masked rows of all sequences, ascending; how many.
int64_t find_masked(const PriorSizes& z, const PriorTask& task, Workspace& s) {
  int64_t R = 0;
  for (int64_t i = 0; i < task.n * z.N; ++i)
    if (task.ids[i] == z.K) s.place[R++] = i;
  return R;
}

// Draws the masked rows' tokens from s.rows, into ids and s.logp. False if a logit is not finite.
bool draw(const PriorWeights& w, const Settings& settings, const PriorTask& task, int64_t step,
          int64_t R, Workspace& s) {
  const PriorSizes& z = w.sizes;
  const int64_t stride = whole_vectors(z.K);
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
                int64_t step, int64_t r, int64_t end, int64_t n_masked, Workspace& s) {
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
                bool guided, Workspace& s) {
  const PriorSizes& z = w.sizes;
  for (int64_t r = 0; r < R; ++r) {
    const int64_t n = s.place[r] % z.N, class_id = task.class_id[s.place[r] / z.N];
    copy(s.rows + r * z.D, start + (class_id * z.N + n) * z.D, z.D);
    if (guided) copy(s.none + r * z.D, start + (z.n_classes * z.N + n) * z.D, z.D);
  }
}

// s.rows = none + guidance (rows - none)
void guide(float guidance, int64_t n, Workspace& s) {
  for (int64_t i = 0; i < n; ++i) s.rows[i] = s.none[i] + guidance * (s.rows[i] - s.none[i]);
}

}  // namespace

int64_t prior_scratch(const PriorSizes& sizes, int64_t n) {
  Arena arena;
  lay_out_scratch(sizes, n, arena);
  return arena.used;
}

void prior_start(const PriorWeights& w, int64_t class_id, float* scratch, float* hidden_ND) {
  const PriorSizes& z = w.sizes;
  Arena arena{scratch, 0};
  Workspace s = lay_out_scratch(z, 1, arena);
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
  Workspace s = lay_out_scratch(z, task.n, arena);
  float* const context = z.n_low ? s.context : nullptr;
  for (int64_t b = 0; b < task.n && context; ++b)
    see_low(w, task.low + b * z.n_low, s, context + b * z.N * z.D);
  const bool guided = settings.guidance != 1 && z.n_classes > 0;
  bool finite = true;
  for (int64_t step = 0; step < settings.steps; ++step) {
    const int64_t R = find_masked(z, task, s);
    if (R == 0 || stop(asked, thread)) break;
    if (start && step == 0 && R == task.n * z.N) {
      start_rows(w, task, start, R, guided, s);
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
