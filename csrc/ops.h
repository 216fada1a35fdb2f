// Every native kernel, on one screen. Raw pointers, contiguous; no PyTorch, no Python.
#pragma once

#include <cstdint>

namespace tsgen::cpu {

// words[b, n] = the Philox words of sample[b] at position n, see philox.h
// sample (B), words (B, N, 4) in [0, 2^32): int64, since PyTorch cannot shift or gather uint32
void philox(uint64_t key, const int64_t* sample_B, int64_t B, int64_t N, uint32_t stream,
            uint32_t step, uint32_t band, int64_t* words_BN4);

}  // namespace tsgen::cpu
