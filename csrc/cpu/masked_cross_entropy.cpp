// masked_cross_entropy, CPU: logits of a few rows at a time, never of all of them. The gradients
// are computed along with the loss, since the logits they need are in the cache then; to have them
// again later would cost a third more arithmetic.
#include <cstring>

#include "machine/parallel.h"
#include "machine/scratch.h"
#include "ops.h"
#include "simd/cross_entropy.h"
#include "simd/head.h"

namespace tsgen::cpu {
namespace {

void gather(const float* h, const int64_t* rows, float* to, int64_t n, int64_t D) {
  for (int64_t r = 0; r < n; ++r) std::memcpy(to + r * D, h + rows[r] * D, D * sizeof(float));
}

float mean_in_order(const double* losses, int64_t R) {
  double total = 0;
  for (int64_t r = 0; r < R; ++r) total += losses[r];
  return (float)(total / (R < 1 ? 1 : R));
}

}  // namespace

void masked_cross_entropy(const float* h, const float* weight, const float* bias,
                          const int64_t* rows, const int64_t* target, float* loss, int64_t /*M*/,
                          int64_t R, int64_t K, int64_t D, int64_t n_threads) {
  const auto head = TSGEN_BEST(head_rows);
  const auto row_loss = TSGEN_BEST(cross_entropy_row);
  const auto packed = scratch<float>(TSGEN_BEST(packed_head_size)(K, D));
  TSGEN_BEST(pack_head)(weight, packed.get(), K, D);
  const auto losses = scratch<double>(R);
  const int64_t at_once = head_rows_at_once(K);
  n_threads = useful_threads(n_threads, R * K * D);
  const ThreadScratch memory(n_threads, at_once * (D + K));

  parallel_for((R + at_once - 1) / at_once, n_threads, [&](int64_t task, int64_t thread) {
    float* const mine = memory.of(thread);
    float* const logits = mine + at_once * D;
    const int64_t first = task * at_once, n = R - first < at_once ? R - first : at_once;
    gather(h, rows + first, mine, n, D);
    head(mine, packed.get(), bias, logits, n, {K, D, K});
    for (int64_t r = 0; r < n; ++r)
      losses[first + r] = row_loss(logits + r * K, target[first + r], K);
  });
  *loss = mean_in_order(losses.get(), R);
}

namespace {

// The gradients of stages of rows, one after the other: first those of the logits and of h, a task
// being some rows; then what they add to those of W and b, a task being some codes.
struct Backward {
  const float *h, *weight, *bias;
  const int64_t *rows, *target;
  float *grad_h, *grad_weight, *grad_bias;
  int64_t R, n_threads;
  HeadSizes sizes;

  int64_t at_once = head_rows_at_once(sizes.K);
  // a cache full for each thread; any number gives the same bits, as sums over rows go in order
  int64_t stage = 2 * n_threads * at_once, ld_h = stage + 16;
  Scratch<float> packed = scratch<float>(TSGEN_BEST(packed_head_size)(sizes.K, sizes.D));
  Scratch<float> packed_back = scratch<float>(TSGEN_BEST(packed_head_back_size)(sizes.K, sizes.D));
  Scratch<float> logits = scratch<float>(stage * sizes.ld),
                 h_t = scratch<float>((sizes.D + 1) * ld_h);
  Scratch<float> grad_t = scratch<float>((sizes.D + 1) * sizes.ld);
  ThreadScratch memory{n_threads, at_once * sizes.D};
  Scratch<double> losses = scratch<double>(R);

  void rows_of_stage(int64_t first, int64_t n, float* mine) const {
    const auto row_loss = TSGEN_BEST(cross_entropy_row_backward);
    const int64_t start = first % stage, D = sizes.D;
    float* const block = logits.get() + start * sizes.ld;
    gather(h, rows + first, mine, n, D);
    for (int64_t d = 0; d <= D; ++d)
      for (int64_t r = 0; r < n; ++r) h_t[d * ld_h + start + r] = d < D ? mine[r * D + d] : 1.0f;

    TSGEN_BEST(head_rows)(mine, packed.get(), bias, block, n, sizes);
    for (int64_t r = 0; r < n; ++r)
      losses[first + r] =
          row_loss(block + r * sizes.ld, target[first + r], 1.0f / (float)R, sizes.K);
    TSGEN_BEST(head_rows_backward)(block, packed_back.get(), mine, n, sizes);
    for (int64_t r = 0; r < n; ++r)
      std::memcpy(grad_h + rows[first + r] * D, mine + r * D, D * sizeof(float));
  }

  void write_codes(int64_t k) const {
    const int64_t D = sizes.D, end = k + HEAD_CODES < sizes.K ? k + HEAD_CODES : sizes.K;
    for (; k < end; ++k) {
      for (int64_t d = 0; d < D; ++d) grad_weight[k * D + d] = grad_t[d * sizes.ld + k];
      if (grad_bias) grad_bias[k] = grad_t[D * sizes.ld + k];
    }
  }

  void run() const {
    TSGEN_BEST(pack_head)(weight, packed.get(), sizes.K, sizes.D);
    TSGEN_BEST(pack_head_back)(weight, packed_back.get(), sizes.K, sizes.D);
    std::memset(grad_t.get(), 0, (sizes.D + 1) * sizes.ld * sizeof(float));
    const int64_t n_stretches = (sizes.K + HEAD_CODES - 1) / HEAD_CODES;
    for (int64_t from = 0; from < R; from += stage) {
      const int64_t n = R - from < stage ? R - from : stage;
      parallel_for((n + at_once - 1) / at_once, n_threads, [&](int64_t task, int64_t thread) {
        const int64_t first = task * at_once, left = n - first;
        rows_of_stage(from + first, left < at_once ? left : at_once, memory.of(thread));
      });
      parallel_for(n_stretches, n_threads, [&](int64_t task, int64_t) {
        TSGEN_BEST(head_weight_backward)
        (h_t.get(), ld_h, logits.get(), grad_t.get(), task * HEAD_CODES, n, sizes);
      });
    }
    parallel_for(n_stretches, n_threads,
                 [&](int64_t task, int64_t) { write_codes(task * HEAD_CODES); });
  }
};

}  // namespace

void masked_cross_entropy_backward(const float* h, const float* weight, const float* bias,
                                   const int64_t* rows, const int64_t* target, float* loss,
                                   float* grad_h, float* grad_weight, float* grad_bias, int64_t M,
                                   int64_t R, int64_t K, int64_t D, int64_t n_threads) {
  std::memset(grad_h, 0, M * D * sizeof(float));
  // rows an odd number of cache lines apart, or columns would lie in one cache set
  const HeadSizes sizes{K, D, (K + 31) / 32 * 32 + 16};
  const Backward work{h,      weight,      bias,      rows, target,
                      grad_h, grad_weight, grad_bias, R,    useful_threads(n_threads, R * K * D),
                      sizes};
  work.run();
  *loss = mean_in_order(work.losses.get(), R);
}

}  // namespace tsgen::cpu
