// One block of memory, handed out in pieces. Without a base it only counts.
#pragma once

#include <cstdint>

namespace tsgen::cpu {

struct Arena {
  float* base = nullptr;
  int64_t used = 0;
};

// static, like all that simd/ includes: an inline function's one copy could be the AVX-512 one
static inline float* take(Arena& arena, int64_t n) {
  float* const piece = arena.base ? arena.base + arena.used : nullptr;
  arena.used += (n + 31) / 32 * 32;  // so that vectors of a piece's last row stay inside it
  return piece;
}

}  // namespace tsgen::cpu
