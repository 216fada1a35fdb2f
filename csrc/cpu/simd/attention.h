#pragma once

#include <cstdint>

#include "machine/isa.h"

namespace tsgen::cpu {

// One head of one sequence: M queries, N keys in use. Rows of D numbers, `stride` apart. max_keys:
// of all sequences, with the null key.
struct AttentionHead {
  const float *q, *k, *v, *null_k, *null_v;  // the last two may be null
  const float* weight;  // q_scale k_scale, zeros behind D up to 64 more; null: do not normalise
  int64_t q_stride, k_stride, v_stride, M, N, max_keys, D;
};

// Rows of q, k and v are written, the shared parameters' gradients added to.
struct AttentionGradients {
  float *q, *k, *v;
  int64_t q_stride, kv_stride;
  double *null_k, *null_v, *weight;  // (D) each, null where the head has none
};

// What is written and what `next` will read is fetched meanwhile; null if all is in the cache.
using AttendHead = void(const AttentionHead& head, const AttentionHead* next, float* out,
                        int64_t out_stride, float* scratch);
using AttendHeadBackward = void(const AttentionHead& head, const AttentionHead* next,
                                const float* grad, const float* next_grad, int64_t grad_stride,
                                const AttentionGradients& grads, float* scratch);
// Floats of scratch memory, aligned to 64 bytes, for at most M queries and so many keys.
using AttendScratch = int64_t(int64_t M, int64_t keys, int64_t D);

TSGEN_EACH_ISA(AttendHead attend_head; AttendHeadBackward attend_head_backward;
               AttendScratch attend_scratch; AttendScratch attend_scratch_backward;)

}  // namespace tsgen::cpu
