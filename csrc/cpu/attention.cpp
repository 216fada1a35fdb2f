// Attention over short sequences, CPU: a head of a sequence at a time, wholly in the cache.
#include "simd/attention.h"

#include <vector>

#include "machine/parallel.h"
#include "machine/scratch.h"
#include "ops.h"

namespace tsgen::cpu {
namespace {

constexpr int64_t AT_ONCE = 1 << 17;  // multiplications that a task should have at least
constexpr int64_t NEAR = 1 << 20;     // numbers that a cache holds: no need to fetch them early
constexpr int64_t MOST_PARTS = 32;    // that the gradients of shared parameters are summed in

struct Strides {
  int64_t b, h, n;
};

// All heads, numbered b * H + h.
struct Heads {
  const float *q, *k, *v, *null_kv;
  const int64_t* lengths;
  Strides q_strides, k_strides, v_strides;
  int64_t B, H, M, N, D;
  std::vector<float> weight;  // empty without q_scale, k_scale

  void normalise(const float* q_scale, const float* k_scale) {
    if (!q_scale) return;
    weight.assign(D + 64, 0.0f);
    for (int64_t d = 0; d < D; ++d) weight[d] = q_scale[d] * k_scale[d];
  }

  int64_t count() const { return B * H; }
  int64_t max_keys() const { return N + (null_kv != nullptr); }
  int64_t multiplications() const { return 2 * count() * M * max_keys() * D; }
  bool far() const { return 2 * count() * (M + N) * D > NEAR; }
  // a task has so many heads; a matter of sizes alone, so sums do not depend on threads
  int64_t per_task(int64_t most_tasks) const {
    const int64_t enough = 1 + AT_ONCE / (1 + 2 * M * max_keys() * D);
    const int64_t least = 1 + (count() - 1) / most_tasks;
    return enough < least ? least : enough;
  }

  AttentionHead operator[](int64_t i) const {
    const int64_t b = i / H, h = i % H;
    int64_t used = N;
    if (lengths) used = lengths[b] < 0 ? 0 : lengths[b] < N ? lengths[b] : N;
    return {q + b * q_strides.b + h * q_strides.h,
            k + b * k_strides.b + h * k_strides.h,
            v + b * v_strides.b + h * v_strides.h,
            null_kv ? null_kv + h * D : nullptr,
            null_kv ? null_kv + (H + h) * D : nullptr,
            weight.empty() ? nullptr : weight.data(),
            q_strides.n,
            k_strides.n,
            v_strides.n,
            M,
            used,
            max_keys(),
            D};
  }
};

void zero_unused(float* grad, const AttentionHead& head, int64_t N, int64_t stride) {
  for (int64_t n = head.N; n < N; ++n)
    for (int64_t d = 0; d < head.D; ++d) grad[n * stride + d] = 0.0f;
}

}  // namespace

void attention(const float* q, const float* k, const float* v, const float* null_kv,
               const float* q_scale, const float* k_scale, const int64_t* lengths, float* out,
               int64_t q_b, int64_t q_h, int64_t q_m, int64_t k_b, int64_t k_h, int64_t k_n,
               int64_t v_b, int64_t v_h, int64_t v_n, int64_t B, int64_t H, int64_t M, int64_t N,
               int64_t D, int64_t n_threads) {
  Heads heads{q, k, v, null_kv, lengths, {q_b, q_h, q_m}, {k_b, k_h, k_n}, {v_b, v_h, v_n}, B,
              H, M, N, D,       {}};
  heads.normalise(q_scale, k_scale);
  const auto attend = TSGEN_BEST(attend_head);
  const int64_t used_threads = useful_threads(n_threads, heads.multiplications());
  const ThreadScratch scratch(used_threads, TSGEN_BEST(attend_scratch)(M, heads.max_keys(), D));
  const int64_t per_task = heads.per_task(INT64_MAX), n_tasks = (B * H + per_task - 1) / per_task;
  parallel_for(n_tasks, used_threads, [&](int64_t task, int64_t thread) {
    for (int64_t i = task * per_task; i < (task + 1) * per_task && i < B * H; ++i) {
      const AttentionHead next = heads[i + 1 < B * H ? i + 1 : i];
      attend(heads[i], heads.far() ? &next : nullptr, out + i / H * M * H * D + i % H * D, H * D,
             scratch.of(thread));
    }
  });
}

void attention_backward(const float* grad_out, const float* q, const float* k, const float* v,
                        const float* null_kv, const float* q_scale, const float* k_scale,
                        const int64_t* lengths, float* grad_q, float* grad_k, float* grad_v,
                        float* grad_null_kv, float* grad_q_scale, float* grad_k_scale, int64_t g_b,
                        int64_t g_h, int64_t g_m, int64_t q_b, int64_t q_h, int64_t q_m,
                        int64_t k_b, int64_t k_h, int64_t k_n, int64_t v_b, int64_t v_h,
                        int64_t v_n, int64_t B, int64_t H, int64_t M, int64_t N, int64_t D,
                        int64_t n_threads) {
  Heads heads{q, k, v, null_kv, lengths, {q_b, q_h, q_m}, {k_b, k_h, k_n}, {v_b, v_h, v_n}, B,
              H, M, N, D,       {}};
  heads.normalise(q_scale, k_scale);
  const auto attend = TSGEN_BEST(attend_head_backward);
  const int64_t used_threads = useful_threads(n_threads, heads.multiplications());
  const ThreadScratch scratch(used_threads,
                              TSGEN_BEST(attend_scratch_backward)(M, heads.max_keys(), D));
  const int64_t per_task = heads.per_task(MOST_PARTS), n_tasks = (B * H + per_task - 1) / per_task;
  // each task sums the shared parameters' gradients for itself: null keys, null values, weight
  const int64_t n_null = null_kv ? 2 * H * D : 0, n_shared = n_null + (q_scale ? D : 0);
  std::vector<double> parts(n_tasks * n_shared);

  parallel_for(n_tasks, used_threads, [&](int64_t task, int64_t thread) {
    double* const part = parts.data() + task * n_shared;
    for (int64_t i = task * per_task; i < (task + 1) * per_task && i < B * H; ++i) {
      const AttentionHead head = heads[i];
      const int64_t b = i / H, h = i % H, row = H * D, at_q = b * M * row + h * D,
                    at_k = b * N * row + h * D;
      const int64_t j = i + 1 < B * H ? i + 1 : i;
      const AttentionHead next = heads[j];
      attend(head, heads.far() ? &next : nullptr, grad_out + b * g_b + h * g_h,
             grad_out + j / H * g_b + j % H * g_h, g_m,
             {grad_q + at_q, grad_k + at_k, grad_v + at_k, row, row, part + h * D,
              part + (H + h) * D, part + n_null},
             scratch.of(thread));
      zero_unused(grad_k + at_k, head, N, row);
      zero_unused(grad_v + at_k, head, N, row);
    }
  });

  std::vector<double> total(n_shared);
  for (int64_t task = 0; task < n_tasks; ++task)
    for (int64_t i = 0; i < n_shared; ++i) total[i] += parts[task * n_shared + i];
  for (int64_t i = 0; i < n_null; ++i) grad_null_kv[i] = (float)total[i];
  for (int64_t d = n_null; d < n_shared; ++d) {
    grad_q_scale[d - n_null] = (float)(total[d] * k_scale[d - n_null]);
    grad_k_scale[d - n_null] = (float)(total[d] * q_scale[d - n_null]);
  }
}

}  // namespace tsgen::cpu
