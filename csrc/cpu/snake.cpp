// Snake with the normalisation before it, CPU: one pass forward, one backward.
#include "simd/snake.h"

#include <vector>

#include "machine/parallel.h"
#include "ops.h"

namespace tsgen::cpu {
namespace {

constexpr int64_t WORK = 16;       // multiplications that a number costs, for useful_threads
constexpr int64_t AT_ONCE = 4096;  // numbers a task should have at least

struct Channel {
  float a, gain, shift;
  Channel(const float* a_C, const float* gain_C, const float* shift_C, int64_t c)
      : a(nonzero(a_C[c])), gain(gain_C ? gain_C[c] : 1.0f), shift(shift_C ? shift_C[c] : 0.0f) {}
};

}  // namespace

void snake(const float* x, const float* a, const float* gain, const float* shift, float* out,
           int64_t B, int64_t C, int64_t S, int64_t n_threads) {
  const auto row = TSGEN_BEST(snake_row);
  const int64_t rows = 1 + AT_ONCE / (S + 1), n_tasks = (B * C + rows - 1) / rows;
  parallel_for(n_tasks, useful_threads(n_threads, B * C * S * WORK), [=](int64_t task, int64_t) {
    for (int64_t i = task * rows; i < (task + 1) * rows && i < B * C; ++i) {
      const Channel channel(a, gain, shift, i % C);
      row(x + i * S, channel.a, channel.gain, channel.shift, out + i * S, S);
    }
  });
}

void snake_backward(const float* grad_out, const float* x, const float* a, const float* gain,
                    const float* shift, float* grad_x, float* grad_a, float* grad_gain,
                    float* grad_shift, int64_t B, int64_t C, int64_t S, int64_t n_threads) {
  const auto row = TSGEN_BEST(snake_row_backward);
  // a task is a channel, so its sums run over the batch in order
  parallel_for(C, useful_threads(n_threads, B * C * S * WORK), [=](int64_t c, int64_t) {
    const Channel channel(a, gain, shift, c);
    SnakeGradients total{};
    for (int64_t b = 0; b < B; ++b) {
      const int64_t at = (b * C + c) * S;
      const SnakeGradients part =
          row(grad_out + at, x + at, channel.a, channel.gain, channel.shift, grad_x + at, S);
      total.a += part.a, total.gain += part.gain, total.shift += part.shift;
    }
    grad_a[c] = (float)total.a;
    if (grad_gain) grad_gain[c] = (float)total.gain, grad_shift[c] = (float)total.shift;
  });
}

}  // namespace tsgen::cpu
