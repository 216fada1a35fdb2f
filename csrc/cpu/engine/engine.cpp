#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "machine/parallel.h"
#include "machine/scratch.h"
#include "simd/lanes.h"

namespace tsgen::cpu {
namespace {

// Thread 0, which is the caller, asks; the others see what it was told.
struct Watch {
  Stop* stop;
  const void* asked;
  std::atomic<bool> stopped{false};

  static bool look(const void* watch, int64_t thread) {
    Watch& self = *static_cast<Watch*>(const_cast<void*>(watch));
    if (thread == 0 && self.stop && self.stop(self.asked, thread)) self.stopped = true;
    return self.stopped.load(std::memory_order_relaxed);
  }
};

void check_size(const char* what, int64_t wanted, int64_t got) {
  if (wanted != got)
    throw std::invalid_argument(std::string(what) + ": wanted " + std::to_string(wanted) +
                                " numbers, got " + std::to_string(got));
}

// How many numbers pack_prior and pack_decoder read: those of the arrays, without their padding.
int64_t n_flat(const PriorSizes& z) {
  const int64_t I = z.H * z.Dh;
  const int64_t layer = 6 * z.D + 4 * I * z.D + 2 * I + z.Dh + 2 * z.F * z.D + 2 * z.F;
  int64_t n = (z.K + 1 + z.N + z.n_classes + 1) * z.D + z.n_layers * layer;
  n += z.D * z.D + 3 * z.D + z.K * z.D + z.K;
  if (z.n_low)
    n += z.taps_in * z.K_low * z.E2 + 3 * z.E2 + (z.taps_out * z.E2 + 1) * z.n_maps * z.D;
  return n;
}

int64_t n_flat(const DecoderSizes& z) {
  const int64_t size = kernel_rows(z), first = z.width[0];
  const auto half = [&](int64_t C) { return (3 * size + 1) * C + C * C + C; };
  int64_t n = (3 * size * z.K + 1 + z.K) * first + 3 * first + half(first);
  for (int64_t i = 0; i < z.n_stages; ++i) {
    const bool last = i + 1 == z.n_stages;
    const int64_t C = z.width[i], next = last ? z.G : z.width[i + 1];
    if (!last) n += z.n_resblocks * (4 * C + 2 * half(C)) + 3 * next;
    n += (4 * size + 1) * C + next * C + next;
  }
  return n + (4 * size * z.G + 1) * z.G + z.L * z.n_taps * 2 * z.rows;
}

}  // namespace

Engine::Engine()
    : lay_out_prior_(TSGEN_BEST(lay_out_prior)),
      pack_prior_(TSGEN_BEST(pack_prior)),
      prior_scratch_(TSGEN_BEST(prior_scratch)),
      prior_start_(TSGEN_BEST(prior_start)),
      prior_decode_(TSGEN_BEST(prior_decode)),
      lay_out_decoder_(TSGEN_BEST(lay_out_decoder)),
      pack_decoder_(TSGEN_BEST(pack_decoder)),
      decoder_scratch_(TSGEN_BEST(decoder_scratch)),
      decode_(TSGEN_BEST(decode)),
      lanes_(TSGEN_BEST(lane_count)()) {}

void Engine::add_prior(const PriorSizes& sizes, const float* flat, int64_t n,
                       const int64_t* column_token, const int64_t* place_source) {
  check_size("prior", n_flat(sizes), n);
  auto band = std::make_unique<PriorBand>();
  band->layers.resize(sizes.n_layers);
  Arena arena;
  lay_out_prior_(sizes, band->layers.data(), arena);
  band->memory.assign(arena.used, 0.0f);
  arena = {band->memory.data(), 0};
  band->weights = lay_out_prior_(sizes, band->layers.data(), arena);
  if (sizes.n_low) {
    band->column_token.assign(column_token, column_token + sizes.n_columns);
    band->place_source.assign(place_source, place_source + 2 * sizes.N);
  }
  band->weights.column_token = band->column_token.data();
  band->weights.place_source = band->place_source.data();
  pack_prior_(band->weights, flat);
  priors_.push_back(std::move(band));
}

void Engine::add_decoder(const DecoderSizes& sizes, const float* flat, int64_t n,
                         const int64_t* sample_frame) {
  check_size("decoder", n_flat(sizes), n);
  auto band = std::make_unique<DecoderBand>();
  band->blocks.resize(sizes.n_stages * sizes.n_resblocks);
  Arena arena;
  lay_out_decoder_(sizes, band->blocks.data(), arena);
  band->memory.assign(arena.used, 0.0f);
  arena = {band->memory.data(), 0};
  band->weights = lay_out_decoder_(sizes, band->blocks.data(), arena);
  band->sample_frame.assign(sample_frame, sample_frame + sizes.L);
  band->weights.sample_frame = band->sample_frame.data();
  pack_decoder_(band->weights, flat);
  decoders_.push_back(std::move(band));
}

// (n_classes + 1, N, D): the first step's rows of every class that is asked for, and of none.
std::vector<float> Engine::starts(const PriorBand& band, const EngineRequest& request,
                                  int64_t n_threads) const {
  const PriorSizes& z = band.weights.sizes;
  std::vector<char> used(z.n_classes + 1, 0);
  used[z.n_classes] = 1;
  for (int64_t i = 0; i < request.n; ++i) used[request.class_id[i]] = 1;
  std::vector<int64_t> classes;
  for (int64_t c = 0; c <= z.n_classes; ++c)
    if (used[c]) classes.push_back(c);
  std::vector<float> rows((z.n_classes + 1) * z.N * z.D);
  const ThreadScratch scratch(n_threads, prior_scratch_(z, 1));
  parallel_for((int64_t)classes.size(), n_threads, [&](int64_t task, int64_t thread) {
    const int64_t c = classes[task];
    prior_start_(band.weights, c, scratch.of(thread), &rows[c * z.N * z.D]);
  });
  return rows;
}

int64_t Engine::scratch_size(int64_t n) const {
  int64_t size = 0;
  for (const auto& band : priors_)
    size = std::max(size, prior_scratch_(band->weights.sizes,
                                         std::min(n, sequences_at_once(band->weights.sizes))));
  for (const auto& band : decoders_) size = std::max(size, decoder_scratch_(band->weights.sizes));
  return size;
}

Outcome Engine::sample(const EngineRequest& request, int64_t n_threads, Stop* stop,
                       const void* asked) const {
  n_threads = std::max<int64_t>(1, n_threads);
  const int64_t n = request.n;
  const int64_t at_once = std::clamp<int64_t>((n + n_threads - 1) / n_threads, 1, lanes_);
  std::vector<std::vector<float>> start(priors_.size());
  for (size_t b = 0; b < priors_.size(); ++b)
    if (priors_[b]->weights.sizes.n_low == 0) start[b] = starts(*priors_[b], request, n_threads);
  // the class of who has none, at every band
  const std::vector<int64_t> none(at_once, priors_[0]->weights.sizes.n_classes);
  const ThreadScratch scratch(n_threads, scratch_size(at_once));
  Watch watch{stop, asked};
  std::atomic<bool> finite{true};

  parallel_for((n + at_once - 1) / at_once, n_threads, [&](int64_t task, int64_t thread) {
    const int64_t first = task * at_once, end = std::min(n, first + at_once);
    float* const own = scratch.of(thread);
    for (size_t b = 0; b < priors_.size(); ++b) {
      const PriorSizes& z = priors_[b]->weights.sizes;
      const BandRequest& band = request.band[b];
      for (int64_t i = first; i < end; i += sequences_at_once(z)) {
        PriorTask part;
        part.n = std::min(end - i, sequences_at_once(z));
        part.index = request.index + i, part.class_id = request.class_id + i;
        part.none = none.data();
        part.low = z.n_low ? request.band[0].ids + i * z.n_low : nullptr;
        part.plan = band.plan + i * band.settings.steps;
        part.ids = band.ids + i * z.N;
        if (watch.stopped.load(std::memory_order_relaxed)) return;
        if (!prior_decode_(priors_[b]->weights, band.settings, part,
                           start[b].empty() ? nullptr : start[b].data(), own, Watch::look, &watch,
                           thread))
          finite = false;
      }
    }
    if (!request.series || watch.stopped) return;
    const DecoderSizes& z = decoders_[0]->weights.sizes;
    float* const series = request.series + first * (z.G / 2) * z.L;
    std::fill(series, series + (end - first) * (z.G / 2) * z.L, 0.0f);
    for (size_t b = 0; b < decoders_.size(); ++b) {
      const int64_t N = priors_[b]->weights.sizes.N;
      decode_(decoders_[b]->weights, request.band[b].ids + first * N, end - first, own, series);
    }
  });
  if (watch.stopped) return Outcome::stopped;
  return finite ? Outcome::done : Outcome::not_finite;
}

void Engine::decode(const std::vector<const int64_t*>& ids, int64_t n, float* series,
                    int64_t n_threads) const {
  n_threads = std::max<int64_t>(1, n_threads);
  int64_t size = 0;
  for (const auto& band : decoders_) size = std::max(size, decoder_scratch_(band->weights.sizes));
  const ThreadScratch scratch(n_threads, size);
  parallel_for((n + lanes_ - 1) / lanes_, n_threads, [&](int64_t task, int64_t thread) {
    const int64_t first = task * lanes_, end = std::min(n, first + lanes_);
    const DecoderSizes& z = decoders_[0]->weights.sizes;
    float* const part = series + first * (z.G / 2) * z.L;
    std::fill(part, part + (end - first) * (z.G / 2) * z.L, 0.0f);
    for (size_t b = 0; b < decoders_.size(); ++b) {
      const DecoderWeights& w = decoders_[b]->weights;
      const int64_t N = w.sizes.rows * w.sizes.columns;
      decode_(w, ids[b] + first * N, end - first, scratch.of(thread), part);
    }
  });
}

}  // namespace tsgen::cpu
