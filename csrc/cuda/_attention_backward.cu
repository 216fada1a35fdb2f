// Gradients of attention: one kernel if a sequence fits into shared memory, or else two.
#include "cuda/attention_gradients.cuh"
#include "cuda/machine/sum_rows.cuh"
#include "ops_cuda.h"

namespace tsgen::cuda {
namespace {

constexpr int MOST_SEQUENCES = 4;       // of a block
constexpr size_t MOST_SHARED = 101376;  // bytes that any GPU has for a block

// One kernel does all: queries and keys of the same sequence, one after the other.
template <typename T, int DIM>
__host__ __device__ constexpr int whole_room(const Plan& plan, int n_queries, int n_keys) {
  return 2 * (n_queries + n_keys) * ROW<T, DIM> + 2 * n_queries + plan.warps * TILE * DIM;
}

template <typename T, int DIM>
size_t whole_bytes(const Plan& plan, int64_t M, int64_t keys) {
  const int room = whole_room<T, DIM>(plan, up_to_16(M), up_to_16(keys));
  return plan.sequences * (room + 2 * plan.warps * DIM) * sizeof(float);
}

template <typename T, int DIM>
__global__ void __launch_bounds__(5 * WARP, sizeof(T) == 4 ? 1 : 2)
    attention_whole_kernel(Inputs<T> in, Outputs<T> out, Plan plan) {
  const int block_warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
  const int team_index = block_warp / plan.warps, warp = block_warp % plan.warps;
  const Team team{warp * WARP + lane(), plan.warps * WARP};
  const int sequence = blockIdx.x * plan.sequences + team_index;
  const AttentionHead head(in, sequence);
  const int n_queries = up_to_16(in.M), n_keys = up_to_16(in.N + (in.null_kv != nullptr));
  float* const sums = &shared<float>();
  // of a scale's gradients, of q and of k
  const auto own_sums = [&](int i) { return sums + (threadIdx.x / WARP + i * n_warps) * DIM; };
  float* const base =
      sums + 2 * n_warps * DIM + team_index * whole_room<T, DIM>(plan, n_queries, n_keys);
  T *const q = (T*)base, *const g = q + n_queries * DIM, *const k = g + n_queries * DIM,
           *const v = k + n_keys * DIM;
  Weighing* const weighing = (Weighing*)(v + n_keys * DIM);
  float* const room = (float*)(weighing + n_queries) + warp * TILE * DIM;

  load_rows<DIM>(q, head.q(in.q), 0, n_queries, in.D, in.packed, team);
  load_rows<DIM>(g, head.q(out.grad), 0, n_queries, in.D, in.packed, team);
  load_rows<DIM>(k, head.k(in), 0, n_keys, in.D, in.packed, team);
  load_rows<DIM>(v, head.v(in), 0, n_keys, in.D, in.packed, team);
  end_copies();
  for (int d = lane(); d < DIM; d += WARP) own_sums(0)[d] = own_sums(1)[d] = 0;
  wait_for_copies<0>();
  if (in.q_scale) {
    normalise<DIM>(q, n_queries, in.q_scale, in.D, team);
    normalise<DIM>(k, n_keys, in.k_scale, in.D, team);
  }
  __syncthreads();

  for (int first = warp * TILE; first < n_queries; first += plan.warps * TILE) {
    const Own<T, DIM> own_q(q + first * DIM), own_g(g + first * DIM);
    Statistics<T> statistics;
    in_chunks(head.keys(), [&](auto n, int j) {
      statistics.template meet<DIM, n>(own_q, own_g, k + j * DIM, v + j * DIM, head.keys() - j,
                                       in.to_log2());
    });
    Weighing of[Lanes<T>::ROWS];
#pragma unroll
    for (int r = 0; r < Lanes<T>::ROWS; ++r) {
      of[r] = statistics.weighing(r);
      if (lane() % Lanes<T>::ACROSS == 0) weighing[first + Lanes<T>::row(r)] = of[r];
    }
    Sums<T, DIM> dq;
    in_chunks(head.keys(), [&](auto n, int j) {
      add_keys<n>(dq, own_q, own_g, k + j * DIM, v + j * DIM, head.keys() - j, of, in, room);
    });
    write_queries<DIM>(dq, AttentionHead(in, anew(sequence)), first, room, own_sums(0), in, out);
  }
  __syncthreads();

  for (int first = warp * TILE; first < n_keys; first += plan.warps * TILE) {
    Sums<T, DIM> dk, dv;
    in_chunks(head.queries, [&](auto n, int j) {
      add_queries<n>(dk, dv, k + first * DIM, v + first * DIM, q + j * DIM, g + j * DIM,
                     weighing + j, in, room);
    });
    write_keys<DIM>(dk, dv, AttentionHead(in, anew(sequence)), first, room, own_sums(1), in, out);
  }
  if (!in.q_scale) return;
  __syncthreads();
  write_scale_sums<DIM>(sums, out.q_sums, in.D);
  write_scale_sums<DIM>(sums + n_warps * DIM, out.k_sums, in.D);
}

template <typename T, int DIM>
Plan plan_for(int64_t M, int64_t keys) {
  const int most = 4, tiles = (int)max((int64_t)1, ceil_div(max(M, keys), TILE));
  Plan plan{true, 1, tiles <= 5 ? tiles : (int)ceil_div(tiles, 2), 1, 1, sizeof(T) == 4 ? 32 : 64};
  plan.sequences = max(1, MOST_SEQUENCES / plan.warps);
  if (tiles <= 8 && whole_bytes<T, DIM>(plan, M, keys) <= MOST_SHARED) return plan;
  plan.whole = false, plan.sequences = 1, plan.warps = most;
  plan.query_blocks = (int)ceil_div(M, most * TILE);
  plan.key_blocks = (int)ceil_div(keys, most * TILE);
  return plan;
}

// What is written by one kernel for another, as offsets in floats.
struct Scratch {
  int64_t n_queries, n_keys;  // blocks that have sums of a scale's gradients
  int64_t null_sums, q_sums, k_sums, room, end;

  Scratch(const Plan& plan, int64_t B, int64_t H, int64_t M, int64_t D) {
    n_queries = plan.whole ? ceil_div(B * H, plan.sequences) : B * H * plan.query_blocks;
    n_keys = plan.whole ? n_queries : B * H * plan.key_blocks;
    null_sums = plan.whole ? 0 : 2 * B * H * M;
    q_sums = null_sums + 2 * B * H * D;
    k_sums = q_sums + n_queries * D;
    room = k_sums + n_keys * D;
    end = room + MOST_SLICES * 2 * H * D;
  }
};

template <typename T, int DIM>
void start(const Launch& on, const Inputs<T>& in, const Outputs<T>& out, const Plan& plan) {
  if (!plan.whole) return start_long<T, DIM>(on, in, out, plan);
  launch(on, attention_whole_kernel<T, DIM>, ceil_div((int64_t)in.B * in.H, plan.sequences),
         plan.sequences * plan.warps * WARP,
         whole_bytes<T, DIM>(plan, in.M, in.N + (in.null_kv != nullptr)), in, out, plan);
}

}  // namespace

int64_t attention_backward_scratch(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                                   int64_t, int64_t, int64_t, int64_t, int64_t, int64_t B,
                                   int64_t H, int64_t M, int64_t N, int64_t D) {
  int64_t most = 0;  // of dtypes, with and without a null key
  by_dim(D, [&](auto dim) {
    constexpr int DIM = decltype(dim)::value;
    for (const int64_t keys : {N, N + 1})
      for (const Plan& plan : {plan_for<float, DIM>(M, keys), plan_for<Half, DIM>(M, keys)})
        most = max(most, Scratch(plan, B, H, M, D).end);
  });
  return most * (int64_t)sizeof(float);
}

void attention_backward(const Launch& on, const void* grad_out, const void* q, const void* k,
                        const void* v, const float* null_kv, const float* q_scale,
                        const float* k_scale, const int64_t* lengths, void* grad_q, void* grad_k,
                        void* grad_v, float* grad_null_kv, float* grad_q_scale, float* grad_k_scale,
                        int64_t g_b, int64_t g_h, int64_t g_m, int64_t q_b, int64_t q_h,
                        int64_t q_m, int64_t k_b, int64_t k_h, int64_t k_n, int64_t v_b,
                        int64_t v_h, int64_t v_n, int64_t B, int64_t H, int64_t M, int64_t N,
                        int64_t D) {
  if (H * D == 0) return;
  const auto with = [&](auto zero, auto dim) {
    using T = decltype(zero);
    constexpr int DIM = decltype(dim)::value;
    Inputs<T> in = inputs_of<T>({(const T*)q, q_b, q_h, q_m}, {(const T*)k, k_b, k_h, k_n},
                                {(const T*)v, v_b, v_h, v_n}, null_kv, q_scale, k_scale, lengths, B,
                                H, M, N, D);
    const Plan plan = plan_for<T, DIM>(M, N + (null_kv != nullptr));
    const Scratch at(plan, B, H, M, D);
    float* const scratch = (float*)on.scratch;
    const Outputs<T> out{{(const T*)grad_out, g_b, g_h, g_m},
                         (T*)grad_q,
                         (T*)grad_k,
                         (T*)grad_v,
                         (Weighing*)scratch,
                         scratch + at.null_sums,
                         scratch + at.q_sums,
                         scratch + at.k_sums};
    in.packed = in.packed && fits_pieces(out.grad) &&
                aligned((int64_t)grad_q | (int64_t)grad_k | (int64_t)grad_v);
    if (B) start<T, DIM>(on, in, out, plan);
    float* const room = scratch + at.room;
    if (null_kv) sum_rows(on, out.null_sums, room, grad_null_kv, B, 2 * H * D);
    if (q_scale) sum_rows(on, out.q_sums, room, grad_q_scale, at.n_queries, D);
    if (q_scale) sum_rows(on, out.k_sums, room, grad_k_scale, at.n_keys, D);
  };
  by_dtype(on.dtype, [&](auto zero) { by_dim(D, [&](auto dim) { with(zero, dim); }); });
}

}  // namespace tsgen::cuda
