#include "cuda/engine/prior.h"

#include <algorithm>

#include "ops_cuda.h"

namespace tsgen::cuda {
namespace {

constexpr float LAYER_EPS = 1e-5f, HEAD_EPS = 1e-12f;
constexpr int64_t WIDEST = 64;  // dims of a head that the op attention takes

bool is_guided(const cpu::Settings& settings, const cpu::PriorSizes& sizes) {
  return settings.guidance != 1 && sizes.n_classes > 0;
}

int64_t reach_of(const cpu::PriorSizes& z) { return z.taps_out / 2 * z.dilation; }

}  // namespace

Prior::Prior(const Launch& on, const FoldedPrior& folded) : z_(folded.sizes) {
  const int64_t I = z_.H * z_.Dh, D = z_.D, F = z_.F;
  Flat flat(on, folded.flat, kept_);
  tokens_ = flat.next((z_.K + 1) * D), places_ = flat.next(z_.N * D);
  classes_ = flat.next((z_.n_classes + 1) * D);
  for (int64_t l = 0; l < z_.n_layers; ++l) {
    Layer w;
    w.norm_in = flat.next(2 * D), w.qkv = flat.next(3 * I * D), w.null_kv = flat.next(2 * I);
    w.scale = flat.next(z_.Dh), w.out = flat.next(D * I), w.norm_out = flat.next(2 * D);
    w.norm_ff = flat.next(2 * D), w.up = flat.next(F * D), w.norm_mid = flat.next(2 * F);
    w.down = flat.next(D * F);
    layers_.push_back(w);
  }
  head_in_ = flat.next(D * D), head_in_bias_ = flat.next(D), head_norm_ = flat.next(2 * D);
  head_ = flat.next(z_.K * D), head_bias_ = flat.next(z_.K);
  if (z_.n_low) {
    const int64_t width = z_.n_maps * D;
    tables_ = flat.next(z_.taps_in * z_.K_low * z_.E2), bias_in_ = flat.next(z_.E2);
    norm_ = flat.next(2 * z_.E2), taps_ = flat.next(z_.taps_out * width * z_.E2);
    bias_out_ = flat.next(width);
    column_token_ = kept_.add(on, folded.column_token);
    place_source_ = kept_.add(on, folded.place_source);
  }
  flat.end();
  const std::vector<float> ones(z_.Dh, 1.0f);
  ones_ = kept_.add(on, ones);
  wait(on);  // `ones` has to stay until then
}

Prior::Rooms Prior::lay_out(Room& room, int64_t n) const {
  // two passes each, where there are classes: guidance may be asked for
  const int64_t S = z_.n_classes ? 2 * n : n, T = z_.N + 1, I = z_.H * z_.Dh, rows = S * T;
  const int64_t columns = z_.n_low ? n * (z_.n_columns + 2 * reach_of(z_)) : 0;
  Rooms r;
  r.x = room.take<float>(rows * z_.D), r.h = room.take<float>(rows * z_.D);
  r.qkv = room.take<float>(rows * 3 * I), r.mixed = room.take<float>(rows * I);
  r.wide = room.take<float>(rows * z_.F), r.rows = room.take<float>(S * z_.N * z_.D);
  r.q = room.take<float>(S * z_.N * I);
  r.columns = room.take<float>(z_.n_low ? (columns + 2 * reach_of(z_)) * z_.E2 : 0);
  r.mapped = room.take<float>(columns * z_.n_maps * z_.D);
  r.u = room.take<double>(n * z_.N), r.confidence = room.take<double>(n * z_.N);
  r.logp = room.take<float>(n * z_.N), r.drawn = room.take<int64_t>(n * z_.N);
  r.n_masked = room.take<int64_t>(n);
  r.places = room.take<int32_t>(n * z_.N), r.again = room.take<uint8_t>(n * z_.N);
  return r;
}

int64_t Prior::scratch(int64_t n) const {
  Room room;
  lay_out(room, n);
  return room.used();
}

// Rows of every column; a sequence's stand between zeros, so that a tap is a product from an
// offset on. What it makes of the zeros' own rows is never looked at.
Context Prior::see_low(const Launch& on, const PriorTask& task, const Rooms& room) const {
  const int64_t reach = reach_of(z_), pitch = z_.n_columns + 2 * reach, width = z_.n_maps * z_.D;
  context_columns(on, task.low, column_token_, tables_, bias_in_, norm_, room.columns, task.n,
                  z_.n_low, z_.n_columns, reach, z_.taps_in, z_.K_low, z_.E2);
  for (int64_t tap = 0; tap < z_.taps_out; ++tap) {
    After after;
    if (tap == 0)
      after.bias = bias_out_;
    else
      after.added = room.mapped;
    linear(on, room.columns + tap * z_.dilation * z_.E2, taps_ + tap * width * z_.E2, after,
           room.mapped, task.n * pitch, width, z_.E2);
  }
  return {room.mapped, place_source_, pitch, z_.n_maps};
}

// mixed (S, M, I): q has M rows of each sequence, k and v beside each other T.
void Prior::attend(const Launch& on, const Layer& w, const float* q, int64_t q_stride,
                   const float* kv, int64_t kv_stride, float* mixed, int64_t S, int64_t M) const {
  const int64_t T = z_.N + 1, Dh = z_.Dh, I = z_.H * Dh;
  if (Dh > WIDEST)
    return attend_wide(on, q, kv, kv + I, w.null_kv, w.scale, mixed, q_stride, kv_stride, S, z_.H,
                       M, T, Dh);
  attention(on, q, kv, kv + I, w.null_kv, ones_, w.scale, nullptr, mixed, M * q_stride, Dh,
            q_stride, T * kv_stride, Dh, kv_stride, T * kv_stride, Dh, kv_stride, S, z_.H, M, T,
            Dh);
}

// x (rows, D) = what a layer makes of it after its attention; `mixed` holds that.
void Prior::finish_layer(const Pass& pass, const Layer& w, float* x, int64_t rows) const {
  const auto& [on, task, room, S, M] = pass;
  const int64_t D = z_.D;
  linear(on, room.mixed, w.out, {}, room.h, rows, D, z_.H * z_.Dh);
  layer_norm(on, room.h, w.norm_out, LAYER_EPS, x, x, rows, D);
  layer_norm(on, x, w.norm_ff, LAYER_EPS, nullptr, room.h, rows, D);
  linear(on, room.h, w.up, {nullptr, true}, room.wide, rows, z_.F, D);
  layer_norm(on, room.wide, w.norm_mid, LAYER_EPS, nullptr, room.wide, rows, z_.F);
  linear(on, room.wide, w.down, {nullptr, false, x}, x, rows, D, z_.F);
}

void Prior::layer(const Pass& pass, const Layer& w) const {
  const auto& [on, task, room, S, M] = pass;
  const int64_t T = z_.N + 1, I = z_.H * z_.Dh;
  layer_norm(on, room.x, w.norm_in, LAYER_EPS, nullptr, room.h, S * T, z_.D);
  linear(on, room.h, w.qkv, {}, room.qkv, S * T, 3 * I, z_.D);
  attend(on, w, room.qkv, 3 * I, room.qkv + I, 3 * I, room.mixed, S, T);
  finish_layer(pass, w, room.x, S * T);
}

// For masked places alone, into room.rows (S, M, D).
void Prior::last_layer(const Pass& pass, const Layer& w) const {
  const auto& [on, task, room, S, M] = pass;
  const int64_t T = z_.N + 1, I = z_.H * z_.Dh, D = z_.D;
  gather_rows(on, room.x, room.places, room.rows, task.n, S, z_.N, M, D);
  layer_norm(on, room.x, w.norm_in, LAYER_EPS, nullptr, room.x, S * T, D);
  linear(on, room.x, w.qkv + I * D, {}, room.qkv, S * T, 2 * I, D);
  layer_norm(on, room.rows, w.norm_in, LAYER_EPS, nullptr, room.h, S * M, D);
  linear(on, room.h, w.qkv, {}, room.q, S * M, I, D);
  attend(on, w, room.q, I, room.qkv, 2 * I, room.mixed, S, M);
  finish_layer(pass, w, room.rows, S * M);
}

// room.rows (S, M, D) = what the head gets for every masked place.
void Prior::transform(const Pass& pass, const Context& context) const {
  const auto& [on, task, room, S, M] = pass;
  embed(on, task.ids, task.class_id, classes_, tokens_, places_, context, room.x, task.n, S, z_.N,
        z_.D, z_.n_classes);
  for (int64_t l = 0; l + 1 < z_.n_layers; ++l) layer(pass, layers_[l]);
  last_layer(pass, layers_.back());
  linear(on, room.rows, head_in_, {head_in_bias_, true}, room.h, S * M, z_.D, z_.D);
  layer_norm(on, room.h, head_norm_, HEAD_EPS, nullptr, room.rows, S * M, z_.D);
}

// Draws a token for every masked place from room.rows, and masks the least confident again.
void Prior::choose(const Pass& pass, const cpu::Settings& settings, int64_t step) const {
  const auto& [on, task, room, S, M] = pass;
  const DrawKeys draws{settings.seed, task.index, (uint32_t)step, (uint32_t)settings.band};
  const double share = 1 - (double)(step + 1) / (double)settings.steps;
  draw_uniforms(on, draws, room.places, room.u, task.n, M);
  sample_code(on, room.rows, room.u, head_, head_bias_, room.drawn, room.logp, task.n * M, z_.D,
              z_.K, settings.temperature, settings.top_k, settings.top_p);
  take_confidence(on, draws, room.places, room.logp, settings.choice_temperature * share,
                  room.confidence, task.invalid, task.n, M);
  copy_in(on, room.n_masked, &task.plan[step * task.n], task.n * sizeof(int64_t));
  keep_confident(on, room.confidence, room.n_masked, room.again, task.n, M, sizeof(double));
  put_tokens(on, room.places, room.drawn, room.again, z_.K, task.ids, task.n, z_.N, M);
}

bool Prior::decode(const Launch& on, const cpu::Settings& settings, const PriorTask& task,
                   cpu::Stop* stop, const void* asked) const {
  const bool guided = is_guided(settings, z_);
  Room memory(on.scratch);
  const Rooms room = lay_out(memory, task.n);
  const Context context = z_.n_low ? see_low(on, task, room) : Context{};
  for (int64_t step = 0; step < settings.steps && task.most[step] > 0; ++step) {
    if (stop) {
      wait(on);  // or it would be asked about steps long before they are computed
      if (stop(asked, 0)) return false;
    }
    const Pass pass{on, task, room, guided ? 2 * task.n : task.n, task.most[step]};
    find_masked(on, task.ids, z_.K, room.places, task.n, z_.N, pass.M);
    transform(pass, context);
    const int64_t count = task.n * pass.M * z_.D;
    if (guided) guide(on, room.rows, room.rows + count, (float)settings.guidance, count);
    choose(pass, settings, step);
  }
  return true;
}

}  // namespace tsgen::cuda
