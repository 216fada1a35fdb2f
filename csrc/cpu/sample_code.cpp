// sample_code, CPU: a block of rows goes through the head and is drawn from while in the cache.

#include "machine/parallel.h"
#include "machine/scratch.h"
#include "ops.h"
#include "simd/head.h"
#include "simd/sample_row.h"

namespace tsgen::cpu {
namespace {

constexpr int64_t WORK = 4;  // multiplications that a weight costs, for useful_threads

}  // namespace

void sample_code(const float* h, const double* u, const float* weight, const float* bias,
                 int64_t* ids, float* logp, int64_t R, int64_t D, int64_t K, double temperature,
                 int64_t top_k, double top_p, int64_t n_threads) {
  const auto draw = TSGEN_BEST(sample_row);
  const auto head = TSGEN_BEST(head_rows);
  const SampleSettings settings{temperature, top_k, top_p};
  const auto packed = scratch<float>(weight ? TSGEN_BEST(packed_head_size)(K, D) : 0);
  if (weight) TSGEN_BEST(pack_head)(weight, packed.get(), K, D);

  const int64_t rows = head_rows_at_once(K), n_tasks = (R + rows - 1) / rows;
  n_threads = useful_threads(n_threads, R * K * (weight ? D + WORK : WORK));
  const int64_t n_logits = weight ? rows * K : 0, n_weights = SampleScratch::n_weights(K),
                n_sums = SampleScratch::n_sums(K);
  const auto floats = scratch<float>(n_threads * (n_logits + n_weights));
  const auto doubles = scratch<double>(n_threads * n_sums);

  parallel_for(n_tasks, n_threads, [&](int64_t task, int64_t thread) {
    float* const mine = floats.get() + thread * (n_logits + n_weights);
    const SampleScratch sums{mine + n_logits, doubles.get() + thread * n_sums};
    const int64_t first = task * rows, n = R - first < rows ? R - first : rows;
    const float* logits = h + first * D;
    if (weight) head(logits, packed.get(), bias, mine, n, {K, D, K}), logits = mine;
    for (int64_t r = 0; r < n; ++r) {
      const SampledCode drawn = draw(logits + r * K, u[first + r], settings, sums, K);
      ids[first + r] = drawn.id, logp[first + r] = drawn.logp;
    }
  });
}

}  // namespace tsgen::cpu
