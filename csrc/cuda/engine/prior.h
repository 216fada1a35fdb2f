// The prior of one band on a GPU: its decoding loop, kernel by kernel, for many sequences at once.
//
// The law is that of tsgen/sampler.py; the weights are folded as for the CPU, see
// csrc/model/fold.h.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/engine/kernels.h"
#include "cuda/engine/room.h"
#include "model/fold.h"

namespace tsgen::cuda {

// n sequences that are decoded together; addresses on the device, but for the plan's.
struct PriorTask {
  int64_t n;
  const int64_t *index, *class_id;  // (n)
  const int64_t* low;               // (n, n_low) ids of the low band, or null
  std::vector<int64_t> plan;        // (steps, n): how many are masked after each step
  std::vector<int64_t> most;        // (steps): the most that a sequence has masked before it
  int64_t* ids;                     // (n, N), K where to be drawn; drawn when done
  int32_t* invalid;                 // becomes 1 if a logit is not finite
};

class Prior {
 public:
  Prior(const Launch& on, const FoldedPrior& folded);

  const cpu::PriorSizes& sizes() const { return z_; }
  int64_t scratch(int64_t n) const;  // bytes of device memory for n sequences
  // Starts all of it on a stream; `on.scratch` is that memory. Ends early, with ids that mean
  // nothing, where stop(asked, 0) says so before a step: then false.
  bool decode(const Launch& on, const cpu::Settings& settings, const PriorTask& task,
              cpu::Stop* stop, const void* asked) const;

 private:
  struct Layer {
    const float *norm_in, *qkv, *null_kv, *scale, *out, *norm_out;
    const float *norm_ff, *up, *norm_mid, *down;
  };
  // Numbers of S sequences: T rows of each, or M where only masked places count.
  struct Rooms {
    float *x, *h, *qkv, *mixed, *wide;   // (S T, D), ..., (S T, F)
    float *rows, *q, *columns, *mapped;  // (S N, D), (S N, I)
    double *u, *confidence;              // (n N)
    float* logp;                         // (n N)
    int64_t *drawn, *n_masked;           // (n N), (n)
    int32_t* places;                     // (n N)
    uint8_t* again;                      // (n N)
  };
  // What one pass of the transformer works on.
  struct Pass {
    const Launch& on;
    const PriorTask& task;
    const Rooms& room;
    int64_t S, M;  // sequences, masked places
  };

  Rooms lay_out(Room& room, int64_t n) const;
  Context see_low(const Launch& on, const PriorTask& task, const Rooms& room) const;
  void attend(const Launch& on, const Layer& w, const float* q, int64_t q_stride, const float* kv,
              int64_t kv_stride, float* mixed, int64_t S, int64_t M) const;
  void finish_layer(const Pass& pass, const Layer& w, float* x, int64_t rows) const;
  void layer(const Pass& pass, const Layer& w) const;
  void last_layer(const Pass& pass, const Layer& w) const;
  void transform(const Pass& pass, const Context& context) const;
  void choose(const Pass& pass, const cpu::Settings& settings, int64_t step) const;

  cpu::PriorSizes z_;
  Kept kept_;
  const float *tokens_, *places_, *classes_, *ones_;
  std::vector<Layer> layers_;
  const float *head_in_, *head_in_bias_, *head_norm_, *head_, *head_bias_;
  const float *tables_, *bias_in_, *norm_, *taps_, *bias_out_;  // of the context
  const int64_t *column_token_, *place_source_;
};

}  // namespace tsgen::cuda
