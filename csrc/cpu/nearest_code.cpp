// Nearest codeword, CPU: x·c - |c|²/2 is ranked, the distance of the best is computed directly.
#include "simd/nearest_code.h"

#include <algorithm>

#include "machine/parallel.h"
#include "machine/scratch.h"
#include "ops.h"
#include "parts.h"

namespace tsgen::cpu {
namespace {

// Rows of a task. With statistics it is a chunk with its own float32 sums, so it may depend on K
// alone; chunks of 4 K rows need a quarter of the memory of x for them.
int64_t rows_per_task(int64_t N, int64_t K, bool stats, int64_t n_threads) {
  const int64_t wanted =
      stats ? std::max<int64_t>(1024, 4 * K) : std::min<int64_t>(256, N / (4 * n_threads));
  return std::max<int64_t>(1, (wanted + MOST_ROWS - 1) / MOST_ROWS) * MOST_ROWS;
}

}  // namespace

void nearest_code(const float* x, const float* codes, int64_t* ids, float* distance,
                  int64_t* counts, float* sums, int64_t N, int64_t K, int64_t D,
                  int64_t n_threads) {
  const auto nearest_rows = TSGEN_BEST(nearest_rows);
  const auto add_rows = TSGEN_BEST(add_rows);
  const auto tiles = scratch<float>((K + MOST_IN_TILE) * D + MOST_IN_TILE);
  const auto offset = scratch<float>(K + MOST_IN_TILE);
  TSGEN_BEST(tile_codes)(codes, tiles.get(), offset.get(), K, D);
  const RankedCodes ranked{codes, tiles.get(), offset.get(), K, D};

  n_threads = useful_threads(n_threads, N * K * D);
  const int64_t rows = rows_per_task(N, K, counts, n_threads), n_tasks = (N + rows - 1) / rows;
  const auto panels = scratch<float>(n_threads * MOST_ROWS * D);
  const auto part_sums = scratch<float>(counts ? n_tasks * K * D : 0);
  const auto part_counts = scratch<int64_t>(counts ? n_tasks * K : 0);

  parallel_for(n_tasks, n_threads, [&](int64_t task, int64_t thread) {
    float* const to_sums = part_sums.get() + task * K * D;
    int64_t* const to_counts = part_counts.get() + task * K;
    if (counts) std::fill_n(to_sums, K * D, 0.0f), std::fill_n(to_counts, K, 0);
    for (int64_t n = task * rows, end = std::min(N, n + rows); n < end; n += MOST_ROWS) {
      const int64_t size = std::min(MOST_ROWS, end - n);
      float* const panel = panels.get() + thread * MOST_ROWS * D;
      nearest_rows(x + n * D, ranked, panel, ids + n, distance + n, size);
      if (counts) add_rows(x + n * D, ids + n, distance + n, to_counts, to_sums, size, D);
    }
  });
  if (!counts) return;
  add_parts<int64_t>(part_counts.get(), n_tasks, K, counts);
  parallel_for((K * D + AT_ONCE - 1) / AT_ONCE, n_threads, [&](int64_t task, int64_t) {
    add_parts<double>(part_sums.get(), n_tasks, K * D, task * AT_ONCE, sums);
  });
}

}  // namespace tsgen::cpu
