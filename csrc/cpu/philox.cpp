// The random words of many samples and positions, CPU.
#include "philox.h"

#include "ops.h"

namespace tsgen::cpu {

void philox(uint64_t key, const int64_t* sample_B, int64_t B, int64_t N, uint32_t stream,
            uint32_t step, uint32_t band, int64_t* words_BN4) {
  for (int64_t b = 0; b < B; ++b)
    for (int64_t n = 0; n < N; ++n) {
      const PhiloxWords words = philox_at(key, sample_B[b], (uint32_t)n, stream, step, band);
      for (int i = 0; i < 4; ++i) *words_BN4++ = words.word[i];
    }
}

}  // namespace tsgen::cpu
