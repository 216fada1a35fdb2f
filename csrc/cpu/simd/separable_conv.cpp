// Depthwise-separable convolutions, one series a SIMD lane; once per instruction set.
//
// Series are transposed on their way in and out. In between a position is a vector, so layers need
// no care at edges of vectors, whatever their sizes, and no series' result depends on another.
#include "simd/separable_conv.h"

#include "engine/arena.h"
#include "simd/gemm.h"
#include "simd/snake.h"
#include "simd/snake_vectors.h"
#include "simd/taps.h"
#include "simd/turn.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

// Floats from a channel's positions to the next one's: an odd number of vectors, so that those of
// one position are spread over the cache.
int64_t row_of(int64_t n_positions) { return (n_positions | 1) * LANES; }

// Lanes that hold a series are 1, the others 0.
Floats valid_lanes(int64_t n) {
  Floats valid{};
  for (int64_t i = 0; i < n; ++i) valid[i] = 1;
  return valid;
}

struct Activation {
  bool any;
  float a = 1, gain = 1, shift = 0;
  Activation(const SeparableConv& op, int64_t c) : any(op.a != nullptr) {
    if (any) a = nonzero(op.a[c]);
    if (op.gain) gain = op.gain[c], shift = op.shift[c];
  }
};

// `with` everywhere; n is a whole number of vectors.
void fill(float* to, int64_t n, float with) {
  for (int64_t i = 0; i < n; i += LANES) store(to + i, all(with));
}

// LANES positions of n series `stride` apart, at most `rest` of them; other lanes are 0.
void load_square(const float* from, int64_t stride, int64_t n, int64_t rest, Floats* square) {
  for (int64_t r = 0; r < LANES; ++r) {
    const float* const at = from + r * stride;
    square[r] = r < n ? load_some(at, rest) : Floats{};
  }
  turn(square);
}

void store_square(float* to, int64_t stride, int64_t n, int64_t rest, Floats* square) {
  turn(square);
  for (int64_t r = 0; r < n; ++r) store_some(to + r * stride, square[r], rest);
}

// Channel c of n series from b on, as it is into raw, or nowhere, and activated into a halo.
void load_channel(const SeparableConv& op, const Plan& plan, int64_t b, int64_t n, int64_t c,
                  float* raw, float* halo) {
  const float* const from = op.x + (b * op.C + c) * plan.inputs();
  const Activation act(op, c);
  Floats square[LANES]{};
  over_positions(plan, [&](int64_t p, int64_t at) {
    if (p % LANES == 0) load_square(from + p, op.C * plan.inputs(), n, plan.inputs() - p, square);
    const Floats x = square[p % LANES];
    if (raw) store(raw + p * LANES, x);
    store(halo + at * LANES, act.any ? snake(x, act.a, act.gain, act.shift) : x);
  });
  fill_halo(plan, halo);
}

// C (M, N) = A (M, K) B (K, N) + C, all rows of whole vectors but A's.
void multiply_add(const float* a, const float* b, int64_t ldb, float* c, int64_t ldc, int64_t M,
                  int64_t N, int64_t K) {
  for (int64_t k = 0; k < K; k += DEPTH)
    for (int64_t n = 0; n < N; n += PANEL)
      gemm_panel(a + k, K, b + k * ldb + n, ldb, c + n, ldc, M, N - n < PANEL ? N - n : PANEL,
                 K - k < DEPTH ? K - k : DEPTH, Start::c, nullptr);
}

// A LANES-th of 4 x 4, 2 x 4 or 2 x 2 products at a time.
constexpr int TILE_O = LANES == 16 ? 4 : 2, TILE_C = LANES / TILE_O;

// grad[o, c] = Σ over positions and lanes of g[o] t[c]
void outer(const float* g, int64_t ldg, const float* t, int64_t ldt, int64_t n_positions, int64_t O,
           int64_t C, float* grad) {
  for (int64_t o = 0; o < O; o += TILE_O)
    for (int64_t c = 0; c < C; c += TILE_C) {
      // behind the end the last one is computed again
      const auto within = [](int64_t i, int64_t n) { return i < n ? i : n - 1; };
      const float *at_g[TILE_O], *at_t[TILE_C];
      for (int i = 0; i < TILE_O; ++i) at_g[i] = g + within(o + i, O) * ldg;
      for (int j = 0; j < TILE_C; ++j) at_t[j] = t + within(c + j, C) * ldt;
      Floats total[LANES]{};
      for (int64_t p = 0; p < n_positions * LANES; p += LANES) {
        Floats x[TILE_C];
#pragma GCC unroll 4
        for (int j = 0; j < TILE_C; ++j) x[j] = load(at_t[j] + p);
#pragma GCC unroll 4
        for (int i = 0; i < TILE_O; ++i) {
          const Floats y = load(at_g[i] + p);
#pragma GCC unroll 4
          for (int j = 0; j < TILE_C; ++j) total[i * TILE_C + j] += y * x[j];
        }
      }
      const Floats products = sums(total);
      for (int i = 0; i < TILE_O && o + i < O; ++i)
        for (int j = 0; j < TILE_C && c + j < C; ++j)
          grad[(o + i) * C + c + j] = products[i * TILE_C + j];
    }
}

Moments moments_of(const float* y, int64_t n_positions, int64_t n) {
  const Floats valid = valid_lanes(n);
  Floats total{}, squares{};
  for (int64_t p = 0; p < n_positions * LANES; p += LANES) total += valid * load(y + p);
  const double count = (double)(n_positions * n), mean = (double)sum(total) / count;
  for (int64_t p = 0; p < n_positions * LANES; p += LANES) {
    const Floats away = valid * (load(y + p) - (float)mean);
    squares += away * away;
  }
  return {count, (double)(float)mean, (double)sum(squares)};
}

struct Workspace {
  float *halo, *grad_halo, *raw;  // of one channel
  float *t, *grad_t, *y;          // (C, outputs), the same, (O, outputs)
};

Workspace lay_out(const SeparableConv& op, const Plan& plan, Arena& arena) {
  const int64_t row = row_of(plan.outputs()), slack = PANEL;  // a product reads whole panels
  Workspace s;
  s.halo = take(arena, plan.halo() * LANES), s.grad_halo = take(arena, plan.halo() * LANES);
  s.raw = take(arena, plan.inputs() * LANES);
  s.t = take(arena, op.C * row + slack), s.grad_t = take(arena, op.C * row + slack);
  s.y = take(arena, op.O * row + slack);
  return s;
}

// s.t = D(s(x))
void convolve(const SeparableConv& op, const Plan& plan, int64_t b, int64_t n, const Workspace& s) {
  const int64_t row = row_of(plan.outputs()), n_taps = taps_a_channel(op);
  fill(s.halo, plan.halo() * LANES, 0);
  for (int64_t c = 0; c < op.C; ++c) {
    float* const t = s.t + c * row;
    load_channel(op, plan, b, n, c, nullptr, n_taps ? s.halo : t);
    with_taps(plan.n_taps, [&](auto n) {
      for (int64_t phase = 0; phase < plan.n_phases; ++phase)
        depthwise<n.value>(plan, phase, s.halo, op.taps + c * n_taps, op.tap_bias[c], t);
    });
  }
}

// s.y = the gradient of y, with what comes by way of the statistics; 0 in lanes without a series.
void load_gradient(const SeparableConv& op, const Plan& plan, const SeparableGradients& grads,
                   int64_t b, int64_t n, const Workspace& s) {
  const int64_t positions = plan.outputs(), row = row_of(positions);
  const float count = (float)(op.B * positions);
  const Floats valid = valid_lanes(n);
  for (int64_t o = 0; o < op.O; ++o) {
    const int64_t at = (b * op.O + o) * positions, stride = op.O * positions;
    for (int64_t p = 0; p < positions; p += LANES) {
      const int64_t rest = positions - p, here = rest < LANES ? rest : LANES;
      Floats grad[LANES], y[LANES];
      load_square(grads.grad_y + at + p, stride, n, rest, grad);
      if (grads.grad_var) {
        load_square(grads.y + at + p, stride, n, rest, y);
        const float mean = grads.mean[o], of_mean = grads.grad_mean[o] / count,
                    of_var = 2 * grads.grad_var[o] / count;
        for (int64_t i = 0; i < here; ++i) grad[i] += valid * (of_mean + of_var * (y[i] - mean));
      }
      for (int64_t i = 0; i < here; ++i) store(s.y + o * row + (p + i) * LANES, grad[i]);
    }
  }
}

// grad_x and the gradients of the activation, from what a channel's halo was given.
void activation_backward(const SeparableConv& op, const Plan& plan, const SeparableGradients& grads,
                         int64_t b, int64_t n, int64_t c, const float* raw, const float* grad_halo,
                         const SeparableSums& out) {
  float* const to = grads.grad_x + (b * op.C + c) * plan.inputs();
  const Activation act(op, c);
  SnakeSums sums;
  Floats square[LANES]{};
  over_positions(plan, [&](int64_t p, int64_t at) {
    Floats grad = load(grad_halo + at * LANES);
    if (act.any)
      grad = snake_backward(grad, load(raw + p * LANES), act.a, act.gain, act.shift, sums);
    square[p % LANES] = grad;
    if (p % LANES == LANES - 1 || p + 1 == plan.inputs()) {
      const int64_t first = p / LANES * LANES;
      store_square(to + first, op.C * plan.inputs(), n, plan.inputs() - first, square);
    }
  });
  out.a[c] = (float)((double)sum(sums.a) / act.a);
  out.gain[c] = sum(sums.gain), out.shift[c] = sum(sums.shift);
}

}  // namespace

int64_t separable_scratch(const SeparableConv& op) {
  Arena arena;
  lay_out(op, plan_of(op), arena);
  return arena.used;
}

void separable_forward(const SeparableConv& op, int64_t b, int64_t n, float* scratch, float* y,
                       Moments* moments) {
  const Plan plan = plan_of(op);
  Arena arena{scratch, 0};
  const Workspace s = lay_out(op, plan, arena);
  const int64_t positions = plan.outputs(), row = row_of(positions);
  convolve(op, plan, b, n, s);
  for (int64_t o = 0; o < op.O; ++o) fill(s.y + o * row, positions * LANES, op.bias[o]);
  multiply_add(op.weight, s.t, row, s.y, row, op.O, positions * LANES, op.C);
  for (int64_t o = 0; o < op.O; ++o) {
    if (moments) moments[o] = moments_of(s.y + o * row, positions, n);
    for (int64_t p = 0; p < positions; p += LANES) {
      const int64_t rest = positions - p;
      Floats square[LANES];
      for (int64_t i = 0; i < LANES; ++i)
        square[i] = i < rest ? load(s.y + o * row + (p + i) * LANES) : Floats{};
      store_square(y + (b * op.O + o) * positions + p, op.O * positions, n, rest, square);
    }
  }
}

void separable_backward(const SeparableConv& op, const SeparableGradients& grads, int64_t b,
                        int64_t n, float* scratch, const SeparableSums& out) {
  const Plan plan = plan_of(op);
  Arena arena{scratch, 0};
  const Workspace s = lay_out(op, plan, arena);
  const int64_t positions = plan.outputs(), row = row_of(positions), n_taps = taps_a_channel(op);
  const auto total = [&](const float* from) {
    Floats sums{};
    for (int64_t p = 0; p < positions * LANES; p += LANES) sums += load(from + p);
    return sum(sums);
  };
  load_gradient(op, plan, grads, b, n, s);
  convolve(op, plan, b, n, s);
  outer(s.y, row, s.t, row, positions, op.O, op.C, out.weight);
  for (int64_t o = 0; o < op.O; ++o) out.bias[o] = total(s.y + o * row);
  fill(s.grad_t, op.C * row, 0);
  multiply_add(grads.weight_t, s.y, row, s.grad_t, row, op.C, positions * LANES, op.O);
  for (int64_t c = 0; c < op.C; ++c) {
    const float *const grad_t = s.grad_t + c * row, *grad_halo = grad_t;
    load_channel(op, plan, b, n, c, s.raw, s.halo);
    if (n_taps) {
      const float* const taps = op.taps + c * n_taps;
      fill(s.grad_halo, plan.halo() * LANES, 0);
      with_taps(plan.n_taps, [&](auto n) {
        for (int64_t phase = 0; phase < plan.n_phases; ++phase)
          depthwise_backward<n.value>(plan, phase, grad_t, s.halo, taps, s.grad_halo,
                                      out.taps + c * n_taps);
      });
      fold_halo(plan, s.grad_halo);
      out.tap_bias[c] = total(grad_t);
      grad_halo = s.grad_halo;
    }
    activation_backward(op, plan, grads, b, n, c, s.raw, grad_halo, out);
  }
}

}  // namespace tsgen::cpu::TSGEN_ISA
