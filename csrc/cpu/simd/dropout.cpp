// Dropout and the addition after it, once per instruction set.
#include "simd/dropout.h"

#include "simd/philox_vectors.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

constexpr int64_t ABREAST = 16;  // blocks whose equal words decide about neighbours
static_assert(ABREAST % LANES == 0 && DROPOUT_GROUP == 8 * ABREAST);

// The words of blocks `first` and on; first is a multiple of LANES, so no lane carries.
PhiloxVectors blocks(int64_t first, uint64_t seed) {
  Words lane;
  for (int i = 0; i < LANES; ++i) lane[i] = (uint32_t)i;
  return philox4x32({{lane + (uint32_t)first, Words{} + (uint32_t)(first >> 32), Words{}, Words{}}},
                    seed);
}

Floats kept(Floats x, Ints draw, float gain, int32_t n_dropped) {
  return (Floats)((Ints)(x * gain) & (draw >= n_dropped));
}

}  // namespace

void dropout_groups(const float* x, const float* residual, float* out, int64_t first, int64_t end,
                    uint64_t seed, int32_t n_dropped) {
  const float gain = (float)(65536.0 / (65536 - n_dropped));
  for (int64_t group = first; group < end; group += DROPOUT_GROUP)
    for (int64_t lane = 0; lane < ABREAST; lane += LANES) {
      const PhiloxVectors words = blocks(group / 8 + lane, seed);
      for (int i = 0; i < 8; ++i) {
        const Words word = words.word[i % 4];
        const Ints draw = (Ints)(i < 4 ? word & 0xFFFF : word >> 16);
        const int64_t at = group + i * ABREAST + lane, left = end - at;
        if (left >= LANES) {
          const Floats y = kept(load(x + at), draw, gain, n_dropped);
          store(out + at, residual ? load(residual + at) + y : y);
        } else if (left > 0) {
          const Floats y = kept(load_first(x + at, left), draw, gain, n_dropped);
          store_first(out + at, residual ? load_first(residual + at, left) + y : y, left);
        }
      }
    }
}

}  // namespace tsgen::cpu::TSGEN_ISA
