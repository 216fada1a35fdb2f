// Snake, a depthwise convolution and a pointwise one in one pass over the series, CPU.
#include "simd/separable_conv.h"

#include <algorithm>
#include <vector>

#include "machine/parallel.h"
#include "machine/scratch.h"
#include "ops.h"
#include "parts.h"
#include "simd/lanes.h"

namespace tsgen::cpu {
namespace {

// Series are dealt out by as many as a vector has lanes: those of one task.
struct Tasks {
  int64_t lanes, n, threads;
  ThreadScratch memory;

  Tasks(const SeparableConv& op, int64_t n_threads)
      : lanes(TSGEN_BEST(lane_count)()),
        n((op.B + lanes - 1) / lanes),
        threads(useful_threads(n_threads, multiplications(op))),
        memory(threads, TSGEN_BEST(separable_scratch)(op)) {}

  static int64_t multiplications(const SeparableConv& op) {
    return op.B * op.H * (op.W * op.C * 16 + out_width(op) * op.C * (op.O + taps_a_channel(op)));
  }

  // Calls work(task, first series, how many, scratch memory).
  template <typename Work>
  void run(int64_t B, const Work& work) const {
    parallel_for(n, threads, [&](int64_t task, int64_t thread) {
      const int64_t b = task * lanes;
      work(task, b, std::min(lanes, B - b), memory.of(thread));
    });
  }
};

}  // namespace

void separable_conv(const float* x, const float* a, const float* gain, const float* shift,
                    const float* taps, const float* tap_bias, const float* weight,
                    const float* bias, float* y, float* mean, float* var, int64_t B, int64_t C,
                    int64_t H, int64_t W, int64_t O, int64_t kernel_rows, int64_t kind,
                    int64_t n_threads) {
  const SeparableConv op{x, a, gain, shift, taps, tap_bias,    weight,    bias,
                         B, C, H,    W,     O,    kernel_rows, (Taps)kind};
  const Tasks tasks(op, n_threads);
  const auto forward = TSGEN_BEST(separable_forward);
  std::vector<Moments> moments(mean ? tasks.n * O : 0);
  tasks.run(B, [&](int64_t task, int64_t b, int64_t n, float* scratch) {
    forward(op, b, n, scratch, y, mean ? moments.data() + task * O : nullptr);
  });
  for (int64_t o = 0; o < O && mean; ++o) {
    Moments all{};
    for (int64_t task = 0; task < tasks.n; ++task) add(all, moments[task * O + o]);
    mean[o] = (float)all.mean, var[o] = (float)(all.squares / all.n);
  }
}

void separable_conv_backward(const float* grad_y, const float* grad_mean, const float* grad_var,
                             const float* y, const float* mean, const float* x, const float* a,
                             const float* gain, const float* shift, const float* taps,
                             const float* tap_bias, const float* weight, const float* bias,
                             float* grad_x, float* grad_a, float* grad_gain, float* grad_shift,
                             float* grad_taps, float* grad_tap_bias, float* grad_weight,
                             float* grad_bias, int64_t B, int64_t C, int64_t H, int64_t W,
                             int64_t O, int64_t kernel_rows, int64_t kind, int64_t n_threads) {
  const SeparableConv op{x, a, gain, shift, taps, tap_bias,    weight,    bias,
                         B, C, H,    W,     O,    kernel_rows, (Taps)kind};
  const Tasks tasks(op, n_threads);
  const auto backward = TSGEN_BEST(separable_backward);
  std::vector<float> weight_t(C * O);
  for (int64_t o = 0; o < O; ++o)
    for (int64_t c = 0; c < C; ++c) weight_t[c * O + o] = weight[o * C + c];
  const SeparableGradients grads{grad_y, y, mean, grad_mean, grad_var, weight_t.data(), grad_x};

  float* const outputs[] = {grad_weight, grad_bias, grad_taps, grad_tap_bias,
                            grad_a,      grad_gain, grad_shift};
  const int64_t sizes[] = {O * C, O, C * taps_a_channel(op), C, C, C, C};
  int64_t size = 0;
  for (const int64_t n : sizes) size += n;
  std::vector<float> parts(tasks.n * size);
  tasks.run(B, [&](int64_t task, int64_t b, int64_t n, float* scratch) {
    float* part[7];
    float* next = parts.data() + task * size;
    for (int i = 0; i < 7; ++i) part[i] = next, next += sizes[i];
    backward(op, grads, b, n, scratch,
             {part[0], part[1], part[2], part[3], part[4], part[5], part[6]});
  });
  std::vector<float> total(size);
  add_parts<double>(parts.data(), tasks.n, size, total.data());
  const float* next = total.data();
  for (int i = 0; i < 7; next += sizes[i++])
    if (outputs[i]) std::copy_n(next, sizes[i], outputs[i]);
}

}  // namespace tsgen::cpu
