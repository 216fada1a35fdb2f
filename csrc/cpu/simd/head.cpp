// The head of the prior as tiles of a matrix product, once per instruction set.
#include "simd/head.h"

#include "simd/gemm.h"

namespace tsgen::cpu::TSGEN_ISA {

int64_t packed_head_size(int64_t K, int64_t D) { return packed_size(K, D); }

void pack_head(const float* weight, float* packed, int64_t K, int64_t D) {
  pack(weight, 1, D, K, D, packed);
}

void head_rows(const float* h, const float* packed, const float* bias, float* logits, int64_t rows,
               const HeadSizes& sizes) {
  gemm(h, sizes.D, packed, bias, logits, sizes.ld, rows, sizes.K, sizes.D);
}

int64_t packed_head_back_size(int64_t K, int64_t D) { return packed_size(D, K); }

void pack_head_back(const float* weight, float* packed, int64_t K, int64_t D) {
  pack(weight, D, 1, D, K, packed);
}

void head_rows_backward(const float* grad_logits, const float* packed_back, float* grad_h,
                        int64_t rows, const HeadSizes& sizes) {
  gemm(grad_logits, sizes.ld, packed_back, nullptr, grad_h, sizes.D, rows, sizes.D, sizes.K);
}

void head_weight_backward(const float* h_t, int64_t ld_h, const float* grad_logits, float* grad_t,
                          int64_t k, int64_t rows, const HeadSizes& sizes) {
  float panel[DEPTH * PANEL];
  for (int64_t n = k; n < k + HEAD_CODES && n < sizes.K; n += PANEL) {
    const int64_t columns = sizes.K - n < PANEL ? sizes.K - n : PANEL;
    for (int64_t r = 0; r < rows; r += DEPTH) {
      const int64_t depth = rows - r < DEPTH ? rows - r : DEPTH;
      // packed: rows of logits are pages apart, and every tile passes over them again
      pack(grad_logits + r * sizes.ld + n, sizes.ld, 1, columns, depth, panel);
      gemm_panel(h_t + r, ld_h, panel, PANEL, grad_t + n, sizes.ld, sizes.D + 1, columns, depth,
                 Start::c, nullptr);
    }
  }
}

}  // namespace tsgen::cpu::TSGEN_ISA
