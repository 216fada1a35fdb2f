#include "cuda/engine/engine.h"

#include <algorithm>
#include <string>

#include "cuda/engine/decoder.h"
#include "cuda/engine/encoder.h"
#include "cuda/engine/prior.h"
#include "cuda/engine/workspace.h"
#include "model/error.h"
#include "model/fold.h"

namespace tsgen::cuda {
namespace {

constexpr int64_t MOST = 2048;                    // series at once: beyond, a GPU is busy anyway
constexpr int64_t MOST_BYTES = INT64_C(4) << 30;  // of a call: kernels count numbers by 31 bits
constexpr int64_t SHARE = 4;                      // of the free memory, a call takes a fourth

class Engine : public ModelEngine {
 public:
  Engine(const ModelConfig& config, const Tensors& state, int64_t n_threads, int64_t device);

  int64_t at_once(int64_t) const override { return at_once_; }
  cpu::Outcome sample(const cpu::EngineRequest& request, int64_t, cpu::Stop* stop,
                      const void* asked) const override;
  void decode(const std::vector<const int64_t*>& ids, int64_t n, float* series,
              int64_t) const override;
  void encode(const float* x, int64_t n, const std::vector<int64_t*>& ids, int64_t) const override;

 private:
  // Numbers of n series that a call brings or takes, and memory for whatever comes next.
  struct Rooms {
    int64_t *index, *class_id;  // (n)
    std::vector<int64_t*> ids;  // (n, N) of each band
    float* series;              // (n, C, inner_length)
    int32_t* invalid;           // (1)
    void* scratch;
  };

  // What a call of n series works in, as long as it lasts.
  struct Call {
    Call(const Engine& engine, int64_t n)
        : lease(engine.workspaces_, engine.device_, engine.n_bytes(n)),
          room(lease.memory()),
          rooms(engine.lay_out(room, n)),
          on(lease.on(rooms.scratch)) {}

    const Lease lease;
    Room room;
    const Rooms rooms;
    const Launch on;
  };

  Rooms lay_out(Room& room, int64_t n) const;
  int64_t n_bytes(int64_t n) const;
  cpu::Outcome sample_some(const cpu::EngineRequest& request, int64_t first, int64_t n,
                           cpu::Stop* stop, const void* asked) const;
  void decode_some(const Launch& on, const Rooms& rooms, int64_t n, float* series) const;
  int64_t N(int64_t band) const { return config_.n_tokens(band); }

  TokenizerConfig config_;
  int64_t device_, at_once_ = MOST;
  std::vector<std::unique_ptr<Prior>> priors_;
  std::vector<std::unique_ptr<Decoder>> decoders_;
  std::vector<std::unique_ptr<Encoder>> encoders_;
  mutable Workspaces workspaces_;
};

Engine::Engine(const ModelConfig& config, const Tensors& state, int64_t n_threads, int64_t device)
    : config_(config.tokenizer), device_(device) {
  check_device(device);
  const Folded folded = fold(config, state, n_threads);
  std::vector<Floats> encoders;
  for (int64_t band = 0; band < config_.bands; ++band)
    encoders.push_back(fold_encoder(config_, band, Scope(state)["tokenizer"]));
  const Lease lease(workspaces_, device_, 0);
  const Launch on = lease.on(nullptr);
  for (int64_t band = 0; band < config_.bands; ++band) {
    priors_.push_back(std::make_unique<Prior>(on, folded.priors[band]));
    decoders_.push_back(std::make_unique<Decoder>(on, folded.decoders[band]));
    encoders_.push_back(std::make_unique<Encoder>(on, config_, band, encoders[band]));
  }
  const int64_t most = std::min<int64_t>(MOST_BYTES, (int64_t)free_bytes() / SHARE);
  while (at_once_ > 1 && n_bytes(at_once_) > most) at_once_ /= 2;
}

Engine::Rooms Engine::lay_out(Room& room, int64_t n) const {
  Rooms r;
  r.index = room.take<int64_t>(n), r.class_id = room.take<int64_t>(n);
  int64_t scratch = 0;
  for (int64_t band = 0; band < config_.bands; ++band) {
    r.ids.push_back(room.take<int64_t>(n * N(band)));
    scratch = std::max({scratch, priors_[band]->scratch(n), decoders_[band]->scratch(n),
                        encoders_[band]->scratch(n)});
  }
  r.series = room.take<float>(n * config_.n_channels * config_.inner_length());
  r.invalid = room.take<int32_t>(1);
  r.scratch = room.take<char>(scratch);
  return r;
}

int64_t Engine::n_bytes(int64_t n) const {
  Room room;
  lay_out(room, n);
  return room.used();
}

// How many of n sequences' tokens, from the `first` on, are masked after each step and before.
void plan_task(const cpu::BandRequest& band, const cpu::PriorSizes& z, int64_t first,
               PriorTask& task) {
  const int64_t n = task.n, steps = band.settings.steps;
  task.plan.resize(steps * n), task.most.assign(steps, 0);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t* const ids = band.ids + (first + i) * z.N;
    int64_t masked = std::count(ids, ids + z.N, z.K);
    for (int64_t step = 0; step < steps; ++step) {
      task.most[step] = std::max(task.most[step], masked);
      masked = task.plan[step * n + i] = band.plan[(first + i) * steps + step];
    }
  }
}

// Series (n, C, length) of rooms.ids, which are on the device, for the host.
void Engine::decode_some(const Launch& on, const Rooms& rooms, int64_t n, float* series) const {
  for (int64_t band = 0; band < config_.bands; ++band)
    decoders_[band]->decode(on, rooms.ids[band], n, rooms.series, band == 0);
  copy_out(on, series, rooms.series, n * config_.n_channels * config_.length * sizeof(float));
}

// The n series of a request from its `first` on.
cpu::Outcome Engine::sample_some(const cpu::EngineRequest& request, int64_t first, int64_t n,
                                 cpu::Stop* stop, const void* asked) const {
  std::vector<PriorTask> tasks(config_.bands);  // before the lease, which waits for the stream
  int32_t invalid = 0;
  const Call call(*this, n);
  const Launch& on = call.on;
  const Rooms& rooms = call.rooms;
  copy_in(on, rooms.index, request.index + first, n * sizeof(int64_t));
  copy_in(on, rooms.class_id, request.class_id + first, n * sizeof(int64_t));
  clear(on, rooms.invalid, sizeof(int32_t));
  for (int64_t b = 0; b < config_.bands; ++b) {
    const cpu::BandRequest& band = request.band[b];
    PriorTask& task = tasks[b];
    task.n = n, task.index = rooms.index, task.class_id = rooms.class_id;
    task.low = b ? rooms.ids[0] : nullptr, task.ids = rooms.ids[b], task.invalid = rooms.invalid;
    plan_task(band, priors_[b]->sizes(), first, task);
    copy_in(on, task.ids, band.ids + first * N(b), n * N(b) * sizeof(int64_t));
    if (!priors_[b]->decode(on, band.settings, task, stop, asked)) return cpu::Outcome::stopped;
    copy_out(on, band.ids + first * N(b), task.ids, n * N(b) * sizeof(int64_t));
  }
  if (request.series)
    decode_some(on, rooms, n, request.series + first * config_.n_channels * config_.length);
  copy_out(on, &invalid, rooms.invalid, sizeof invalid);
  wait(on);
  return invalid ? cpu::Outcome::not_finite : cpu::Outcome::done;
}

cpu::Outcome Engine::sample(const cpu::EngineRequest& request, int64_t, cpu::Stop* stop,
                            const void* asked) const {
  cpu::Outcome worst = cpu::Outcome::done;
  for (int64_t first = 0; first < request.n; first += at_once_) {
    const int64_t n = std::min(at_once_, request.n - first);
    const cpu::Outcome outcome = sample_some(request, first, n, stop, asked);
    if (outcome == cpu::Outcome::stopped) return outcome;
    if (outcome != cpu::Outcome::done) worst = outcome;
  }
  return worst;
}

void Engine::decode(const std::vector<const int64_t*>& ids, int64_t n, float* series,
                    int64_t) const {
  const int64_t each = config_.n_channels * config_.length;
  for (int64_t first = 0; first < n; first += at_once_) {
    const int64_t part = std::min(at_once_, n - first);
    const Call call(*this, part);
    for (int64_t b = 0; b < config_.bands; ++b)
      copy_in(call.on, call.rooms.ids[b], ids[b] + first * N(b), part * N(b) * sizeof(int64_t));
    decode_some(call.on, call.rooms, part, series + first * each);
    wait(call.on);
  }
}

void Engine::encode(const float* x, int64_t n, const std::vector<int64_t*>& ids, int64_t) const {
  const int64_t each = config_.n_channels * config_.inner_length();
  for (int64_t first = 0; first < n; first += at_once_) {
    const int64_t part = std::min(at_once_, n - first);
    const Call call(*this, part);
    copy_in(call.on, call.rooms.series, x + first * each, part * each * sizeof(float));
    for (int64_t b = 0; b < config_.bands; ++b) {
      encoders_[b]->encode(call.on, call.rooms.series, part, call.rooms.ids[b]);
      copy_out(call.on, ids[b] + first * N(b), call.rooms.ids[b], part * N(b) * sizeof(int64_t));
    }
    wait(call.on);
  }
}

}  // namespace

void check_device(int64_t device) {
  const std::string why = obstacle(device);
  if (why.empty()) return;
  throw Unsupported("device: wanted GPU " + std::to_string(device) +
                    ", of compute capability 8.0 or newer, got: " + why);
}

std::unique_ptr<ModelEngine> make_engine(const ModelConfig& config, const Tensors& state,
                                         int64_t n_threads, int64_t device) {
  return std::make_unique<Engine>(config, state, n_threads, device);
}

}  // namespace tsgen::cuda
