// Philox4x32-10: random words that depend on a key and a counter alone, so that any of them can be
// computed anywhere, in any order. Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
// 3"; tsgen/ops/philox.py holds the same in PyTorch.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace tsgen {

struct PhiloxWords {  // not std::array, which device code cannot index
  uint32_t word[4];
};

TSGEN_HOST_DEVICE static inline constexpr PhiloxWords philox4x32(PhiloxWords counter, uint32_t key0,
                                                                 uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint32_t* const c = counter.word;
    const uint64_t product0 = (uint64_t)0xD2511F53 * c[0];
    const uint64_t product1 = (uint64_t)0xCD9E8D57 * c[2];
    counter = {{(uint32_t)(product1 >> 32) ^ c[1] ^ key0, (uint32_t)product1,
                (uint32_t)(product0 >> 32) ^ c[3] ^ key1, (uint32_t)product0}};
    key0 += 0x9E3779B9;  // golden ratio
    key1 += 0xBB67AE85;  // sqrt(3) - 1
  }
  return counter;
}

// Where every draw of the sampler comes from: n < 2^24, stream < 2^8, step and band < 2^16.
TSGEN_HOST_DEVICE static inline constexpr PhiloxWords philox_at(uint64_t key, int64_t sample,
                                                                uint32_t n, uint32_t stream,
                                                                uint32_t step, uint32_t band) {
  const uint64_t index = (uint64_t)sample;
  return philox4x32(
      {{(uint32_t)index, (uint32_t)(index >> 32), n | stream << 24, step | band << 16}},
      (uint32_t)key, (uint32_t)(key >> 32));
}

// In (0, 1), from 52 bits of two words.
TSGEN_HOST_DEVICE static inline constexpr double uniform(uint32_t high, uint32_t low) {
  return ((double)((uint64_t)high << 20 | low >> 12) + 0.5) * 0x1p-52;
}

}  // namespace tsgen
