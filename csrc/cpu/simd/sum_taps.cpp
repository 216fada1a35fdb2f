// The inner loops of sum_taps, once per instruction set.
#include "simd/sum_taps.h"

#include "simd/vectors.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

// Calls work(where the product's features begin among all) for every tap that sees a token at n.
template <typename Work>
void each_product(const SumTaps& op, int64_t n, const Work& work) {
  for (int64_t t = 0; t < op.T; ++t) {
    const int64_t at = n + t - op.T / 2;
    if (at >= 0 && at < op.N) work((op.source[at] * op.T + t) * op.F);
  }
}

void sum_row(const SumTaps& op, int64_t n, float* row) {
  __builtin_memcpy(row, op.bias, op.F * sizeof(float));
  each_product(op, n, [&](int64_t from) {
    for (int64_t f = 0; f < op.F; ++f) row[f] += op.products[from + f];
  });
}

}  // namespace

void sum_taps_forward(const SumTaps& op, float* h, float* mean, float* squares) {
  for (int64_t n = 0; n < op.N; ++n) {
    float* const row = h + n * op.F;
    sum_row(op, n, row);
    for (int64_t f = 0; f < op.F; f += LANES)
      store_some(row + f, gelu(load_some(row + f, op.F - f)), op.F - f);
  }
  for (int64_t f = 0; f < op.F; f += LANES) {
    const int64_t left = op.F - f;
    Floats total{}, off{};
    for (int64_t n = 0; n < op.N; ++n) total += load_some(h + n * op.F + f, left);
    const Floats middle = total / (float)op.N;
    for (int64_t n = 0; n < op.N; ++n) {
      const Floats away = load_some(h + n * op.F + f, left) - middle;
      off += away * away;
    }
    store_some(mean + f, middle, left), store_some(squares + f, off, left);
  }
}

void sum_taps_backward(const SumTaps& op, const float* grad_h, const float* add, const float* slope,
                       const float* mean, float* row, float* grad_products, float* grad_bias) {
  __builtin_memset(grad_products, 0, op.M * op.T * op.F * sizeof(float));
  __builtin_memset(grad_bias, 0, op.F * sizeof(float));
  for (int64_t n = 0; n < op.N; ++n) {
    sum_row(op, n, row);
    for (int64_t f = 0; f < op.F; f += LANES) {
      const int64_t left = op.F - f;
      const Floats y = load_some(row + f, left);
      const Floats below = 0.5f + 0.5f * erf(y * 0.70710678f);  // Φ(y)
      const Floats density = 0.39894228f * exp(-0.5f * y * y);
      const Floats away = y * below - load_some(mean + f, left);
      const Floats grad = load_some(grad_h + n * op.F + f, left) + load_some(add + f, left) +
                          load_some(slope + f, left) * away;
      const Floats grad_y = grad * (below + y * density);
      store_some(row + f, grad_y, left);
      store_some(grad_bias + f, load_some(grad_bias + f, left) + grad_y, left);
    }
    each_product(op, n, [&](int64_t to) {
      for (int64_t f = 0; f < op.F; ++f) grad_products[to + f] += row[f];
    });
  }
}

}  // namespace tsgen::cpu::TSGEN_ISA
