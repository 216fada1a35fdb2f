// The random words of many samples and positions, CPU.
#include "philox.h"

#include "machine/parallel.h"
#include "ops.h"

namespace tsgen::cpu {

constexpr int64_t WORK = 40;  // multiplications that a draw costs, for useful_threads

void philox(const int64_t* sample, int64_t* words, uint64_t key, int64_t B, int64_t N,
            uint32_t stream, uint32_t step, uint32_t band, int64_t n_threads) {
  parallel_for(B, useful_threads(n_threads, B * N * WORK), [=](int64_t b, int64_t) {
    for (int64_t n = 0; n < N; ++n) {
      const PhiloxWords draw = philox_at(key, sample[b], (uint32_t)n, stream, step, band);
      for (int i = 0; i < 4; ++i) words[(b * N + n) * 4 + i] = draw.word[i];
    }
  });
}

}  // namespace tsgen::cpu
