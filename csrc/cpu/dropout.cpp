// Dropout and the addition after it, CPU: one pass, no mask.
#include "simd/dropout.h"

#include "machine/parallel.h"
#include "ops.h"

namespace tsgen::cpu {
namespace {

constexpr int64_t WORK = 8;                      // multiplications that an element costs
constexpr int64_t AT_ONCE = 64 * DROPOUT_GROUP;  // elements a task has

}  // namespace

void dropout(const float* x, const int64_t* seed, const float* residual, float* out, int64_t n,
             int64_t n_dropped, int64_t n_threads) {
  const auto groups = TSGEN_BEST(dropout_groups);
  const int64_t n_tasks = (n + AT_ONCE - 1) / AT_ONCE;
  parallel_for(n_tasks, useful_threads(n_threads, n * WORK), [=](int64_t task, int64_t) {
    const int64_t first = task * AT_ONCE, end = first + AT_ONCE < n ? first + AT_ONCE : n;
    groups(x, residual, out, first, end, (uint64_t)*seed, (int32_t)n_dropped);
  });
}

}  // namespace tsgen::cpu
