#pragma once

#include <cstdint>

#include "machine/isa.h"

namespace tsgen::cpu {

constexpr int64_t COLUMNS = 128;  // frames at a time, at most: 64 of their rows fill the L1 cache
constexpr int64_t SLACK = 16;     // floats that a vector may reach beyond a row, on any machine

// out row i = sum over k of coefficient[i, k] * in row k. Rows are given by where they start.
struct Mix {
  const float* coefficient;  // (n_out, n_in)
  const int64_t *in_at, *out_at;
  int64_t n_in, n_out;
};

// The way between a series and the planes of its frames, either way. Scratch rows lie `stride`
// floats apart. With a window, frames are folded on the way, see fold(); without one, the window
// is in the coefficients.
struct Path {
  Mix mix[4];
  int64_t n_mixes;
  const float* window;    // (W), or null
  const int64_t* tap_at;  // (W), where the samples n of all frames lie among the phases
  int64_t W, hop, T, stride;
  int64_t halo;      // frames before its own that reach a piece of hop samples
  int64_t n_phases;  // pieces of a hop that are reached at all
};

// samples: (T + halo) * hop of them, and SLACK * hop more may be read or written.
using SamplesToPlanes = void(const Path&, const float* samples, float* planes, float* scratch);
using PlanesToSamples = void(const Path&, const float* planes, float* samples, float* scratch);
using Multiply = void(const float* a, const float* b, float* out, int64_t n);

TSGEN_EACH_ISA(SamplesToPlanes samples_to_planes; PlanesToSamples planes_to_samples;
               Multiply multiply;)

}  // namespace tsgen::cpu
