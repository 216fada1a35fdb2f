// keep_confident, CPU: the rows of a batch.
#include "keep_row.h"
#include "machine/parallel.h"
#include "ops.h"

namespace tsgen::cpu {
namespace {

constexpr int64_t WORK = 16;       // multiplications that a position costs, for useful_threads
constexpr int64_t AT_ONCE = 4096;  // positions a task should have at least

template <typename Float>
void keep_rows(const Float* confidence, const int64_t* n_masked, uint8_t* masked, int64_t B,
               int64_t N, int64_t n_threads) {
  const int64_t rows = 1 + AT_ONCE / (N + 1), n_tasks = (B + rows - 1) / rows;
  parallel_for(n_tasks, useful_threads(n_threads, B * N * WORK), [=](int64_t task, int64_t) {
    for (int64_t b = task * rows; b < (task + 1) * rows && b < B; ++b)
      keep_row(confidence + b * N, n_masked[b], masked + b * N, N);
  });
}

}  // namespace

void keep_confident(const void* confidence, const int64_t* n_masked, uint8_t* masked, int64_t B,
                    int64_t N, int64_t n_bytes, int64_t n_threads) {
  if (n_bytes == 8)
    keep_rows((const double*)confidence, n_masked, masked, B, N, n_threads);
  else
    keep_rows((const float*)confidence, n_masked, masked, B, N, n_threads);
}

}  // namespace tsgen::cpu
