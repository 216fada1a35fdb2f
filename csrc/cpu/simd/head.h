// The head, logits = h Wᵀ + b, for blocks of rows whose logits stay in the cache.
#pragma once

#include <cstdint>

#include "machine/isa.h"

namespace tsgen::cpu {

// Rows that go through the head together. W passes by once for all of them, so many; but their
// logits are a part of the L2 cache, so few. A multiple of gemm.h's tiles on any machine.
static inline int64_t head_rows_at_once(int64_t K) {
  constexpr int64_t MOST = 48, TILE = 12, LOGITS = 65536;  // 256 KiB
  const int64_t rows = LOGITS / (K + 1) / TILE * TILE;     // there may be no code
  return rows > MOST ? MOST : rows < TILE ? TILE : rows;
}

// Everything row by row and contiguous, but for logits, whose rows are ld apart.
struct HeadSizes {
  int64_t K, D, ld;
};

constexpr int64_t HEAD_CODES = 32;  // of which the gradients of W and b are computed together

using PackedHeadSize = int64_t(int64_t K, int64_t D);
using PackHead = void(const float* weight, float* packed, int64_t K, int64_t D);

// logits = h Wᵀ + b    h (rows, D), bias (K) or null
using HeadRows = void(const float* h, const float* packed, const float* bias, float* logits,
                      int64_t rows, const HeadSizes& sizes);
// grad_h = grad_logits W
using HeadRowsBackward = void(const float* grad_logits, const float* packed_back, float* grad_h,
                              int64_t rows, const HeadSizes& sizes);
// grad_t[:, k:k + HEAD_CODES] += h_t grad_logits[:, k:k + HEAD_CODES], in the order of the rows
// h_t (D + 1, rows) with rows ld_h apart and ones in the last of them, so that grad_t (D + 1, ld)
// is the gradient of W, transposed, and that of b
using HeadWeightBackward = void(const float* h_t, int64_t ld_h, const float* grad_logits,
                                float* grad_t, int64_t k, int64_t rows, const HeadSizes& sizes);

TSGEN_EACH_ISA(PackedHeadSize packed_head_size; PackHead pack_head; HeadRows head_rows;
               PackedHeadSize packed_head_back_size; PackHead pack_head_back;
               HeadRowsBackward head_rows_backward; HeadWeightBackward head_weight_backward;)

}  // namespace tsgen::cpu
