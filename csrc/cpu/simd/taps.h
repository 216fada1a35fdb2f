// Depthwise convolutions of one channel, a position being a vector: each series has a lane.
//
// For files in csrc/cpu/simd only, see vectors.h.
#pragma once

#include "simd/separable_conv.h"
#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {

constexpr int64_t MOST_TAPS = 12;

// Which inputs an output is a sum of. A channel's inputs lie in rows with a column before and
// behind, and with a row above and below where the kernel has three: the halo.
struct Plan {
  int64_t H, W, out_W, halo_H, halo_W;
  int64_t step;      // input columns from an output to the next of its phase
  int64_t n_phases;  // outputs a step, each with taps of its own
  int64_t n_taps;    // of a phase
  int64_t offset[2][MOST_TAPS], tap[2][MOST_TAPS];
  bool replicate;  // the halo repeats the edge; else it is 0

  int64_t inputs() const { return H * W; }
  int64_t outputs() const { return H * out_W; }
  int64_t halo() const { return halo_H * halo_W; }
  int64_t margin_rows() const { return (halo_H - H) / 2; }
  int64_t margin_columns() const { return (halo_W - W) / 2; }
};

static inline Plan plan_of(const SeparableConv& op) {
  const int64_t rows = op.kernel_rows, width = op.kind == Taps::same ? 3 : 4;
  Plan plan{};
  plan.H = op.H, plan.W = op.W, plan.out_W = out_width(op);
  if (op.kind == Taps::none) {
    plan.halo_H = op.H, plan.halo_W = op.W;
    return plan;
  }
  plan.halo_H = op.H + rows - 1, plan.halo_W = op.W + 2;
  plan.step = op.kind == Taps::halve ? 2 : 1, plan.n_phases = op.kind == Taps::twice ? 2 : 1;
  plan.n_taps = rows * width / plan.n_phases;
  plan.replicate = op.kind == Taps::halve;
  for (int64_t phase = 0; phase < plan.n_phases; ++phase)
    for (int64_t i = 0, k = 0; i < rows; ++i)
      for (int64_t j = 0; j < width; ++j) {
        int64_t row = i, column = j;
        if (op.kind == Taps::twice) {  // output column 2 m + phase is 2 w - 1 + j
          if ((phase + 1 - j) % 2) continue;
          row = rows - 1 - i, column = 1 + (phase + 1 - j) / 2;
        }
        plan.offset[phase][k] = (row * plan.halo_W + column) * LANES;
        plan.tap[phase][k++] = i * width + j;
      }
  return plan;
}

// The edges of a halo, once its inside is there.
static inline void fill_halo(const Plan& plan, float* halo) {
  if (!plan.replicate) return;  // 0 since the beginning
  const auto copy = [&](int64_t to, int64_t from) {
    store(halo + to * LANES, load(halo + from * LANES));
  };
  const int64_t top = plan.margin_rows(), width = plan.halo_W;
  for (int64_t h = top; h < top + plan.H; ++h)
    copy(h * width, h * width + 1), copy((h + 1) * width - 1, (h + 1) * width - 2);
  for (int64_t w = 0; w < width && top; ++w) {
    copy(w, width + w);
    copy((plan.halo_H - 1) * width + w, (plan.halo_H - 2) * width + w);
  }
}

// The transpose of fill_halo: what the edges are given belongs to those they repeat.
static inline void fold_halo(const Plan& plan, float* halo) {
  if (!plan.replicate) return;
  const auto add = [&](int64_t to, int64_t from) {
    store(halo + to * LANES, load(halo + to * LANES) + load(halo + from * LANES));
  };
  const int64_t top = plan.margin_rows(), width = plan.halo_W;
  for (int64_t w = 0; w < width && top; ++w) {
    add(width + w, w);
    add((plan.halo_H - 2) * width + w, (plan.halo_H - 1) * width + w);
  }
  for (int64_t h = top; h < top + plan.H; ++h)
    add(h * width + 1, h * width), add((h + 1) * width - 2, (h + 1) * width - 1);
}

// Calls each(p, at) for every position p, in order, and its place in a halo.
template <typename Each>
static inline void over_positions(const Plan& plan, const Each& each) {
  int64_t p = 0;
  for (int64_t h = 0; h < plan.H; ++h) {
    const int64_t row = (h + plan.margin_rows()) * plan.halo_W + plan.margin_columns();
    for (int64_t w = 0; w < plan.W; ++w, ++p) each(p, row + w);
  }
}

template <int n_taps>
static inline void depthwise(const Plan& plan, int64_t phase, const float* halo, const float* taps,
                             float bias, float* out) {
  Floats tap[n_taps];
  for (int k = 0; k < n_taps; ++k) tap[k] = all(taps[plan.tap[phase][k]]);
  for (int64_t h = 0; h < plan.H; ++h)
    for (int64_t m = 0; m < plan.out_W / plan.n_phases; ++m) {
      const float* const at = halo + (h * plan.halo_W + m * plan.step) * LANES;
      Floats total = all(bias);
#pragma GCC unroll 12
      for (int k = 0; k < n_taps; ++k) total += tap[k] * load(at + plan.offset[phase][k]);
      store(out + (h * plan.out_W + m * plan.n_phases + phase) * LANES, total);
    }
}

// grad_halo += the taps' transpose of grad_out; grad_taps[k] = Σ over positions and lanes.
template <int n_taps>
static inline void depthwise_backward(const Plan& plan, int64_t phase, const float* grad_out,
                                      const float* halo, const float* taps, float* grad_halo,
                                      float* grad_taps) {
  Floats tap[n_taps], grad_tap[n_taps]{};
  for (int k = 0; k < n_taps; ++k) tap[k] = all(taps[plan.tap[phase][k]]);
  for (int64_t h = 0; h < plan.H; ++h)
    for (int64_t m = 0; m < plan.out_W / plan.n_phases; ++m) {
      const int64_t at = (h * plan.halo_W + m * plan.step) * LANES;
      const int64_t out = (h * plan.out_W + m * plan.n_phases + phase) * LANES;
      const Floats grad = load(grad_out + out);
#pragma GCC unroll 12
      for (int k = 0; k < n_taps; ++k) {
        const int64_t in = at + plan.offset[phase][k];
        grad_tap[k] += grad * load(halo + in);
        store(grad_halo + in, load(grad_halo + in) + tap[k] * grad);
      }
    }
  for (int k = 0; k < n_taps; ++k) grad_taps[plan.tap[phase][k]] = sum(grad_tap[k]);
}

template <int n>
struct Number {
  static constexpr int value = n;
};

// Calls run(Number<n_taps>), so that the compiler knows it.
template <typename Run>
static inline void with_taps(int64_t n_taps, const Run& run) {
  switch (n_taps) {
    case 2:
      return run(Number<2>{});
    case 3:
      return run(Number<3>{});
    case 4:
      return run(Number<4>{});
    case 6:
      return run(Number<6>{});
    case 9:
      return run(Number<9>{});
    case 12:
      return run(Number<12>{});
  }
}

}  // namespace tsgen::cpu::TSGEN_ISA
