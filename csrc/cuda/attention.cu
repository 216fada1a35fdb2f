// Attention over short sequences: a warp has 16 queries and goes through all keys.
//
// Up to STAGE keys are in shared memory at once, so that the rows of a short sequence are all asked
// for before the first is used. Longer ones come in two buffers (Dao 2023, alg. 1). A block has
// several sequences if they are short; no row of one meets those of another.
#include "cuda/attention.cuh"
#include "ops_cuda.h"

namespace tsgen::cuda {
namespace {

constexpr int MOST_SEQUENCES = 4;
template <typename T>
constexpr int MOST_WARPS = sizeof(T) == 4 ? 5 : 8;

// How the work is cut. All of it follows from sizes of a sequence, never from how many there are.
struct Plan {
  int sequences, warps;  // of a block; of a sequence
  int blocks;            // of a sequence
  int stage, buffers;    // keys that are loaded at once, and how often
  Divisor by_warps{1}, by_blocks{1};
};

template <typename T>
Plan plan_for(int64_t M, int64_t keys) {
  constexpr bool exact = sizeof(T) == 4;
  const int tiles = (int)ceil_div(M, TILE), rows = max(TILE, up_to_16(keys));
  Plan plan;
  plan.blocks = (int)ceil_div(tiles, MOST_WARPS<T>);
  plan.warps = (int)ceil_div(tiles, plan.blocks);
  plan.sequences = max(1, min(MOST_SEQUENCES / plan.warps, 64 / rows));
  plan.buffers = rows <= (exact ? 96 : 144) ? 1 : 2;
  plan.stage = plan.buffers == 1 ? rows : exact ? 32 : 64;
  plan.by_warps = Divisor(plan.warps), plan.by_blocks = Divisor(plan.blocks);
  return plan;
}

// Numbers of shared memory for a sequence: queries, stages of keys and values, and room for weights
// of float.
template <typename T, int DIM>
__host__ __device__ constexpr int room_for(const Plan& plan) {
  const int weights = sizeof(T) == 4 ? plan.warps * TILE * CHUNK : 0;
  return (plan.warps * TILE + 2 * plan.buffers * plan.stage) * DIM + weights;
}

// What a warp has found out of its queries so far.
template <typename T, int DIM>
struct Query {
  static constexpr int ROWS = Lanes<T>::ROWS;
  float most[ROWS], total[ROWS];  // the largest score; of the lane's columns, sums of weights
  Sums<T, DIM> sums;              // weights times values

  __device__ __forceinline__ Query() {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) most[r] = LEAST, total[r] = 0;
  }

  // The next n keys, of which only those before `end` count.
  template <int n>
  __device__ __forceinline__ void attend(const Own<T, DIM>& own, const T* k, const T* v, int end,
                                         float scale, float* room) {
    Scores<T, n> s;
    multiply(s, own, k);
    if (end < n) hide(s, end);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const float higher = larger(most[r], s, r, scale);
      const float shrink = exp2_fast(most[r] - higher);
      most[r] = higher;
      total[r] *= shrink;
#pragma unroll
      for (float& x : s.at[r]) total[r] += x = exp2_fast(fmaf(x, scale, -higher));
#pragma unroll
      for (float& x : sums.at[r]) x *= shrink;
    }
    add_product(sums, s, v, room);
  }

  __device__ __forceinline__ void divide() {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const float weight = over_lanes<Lanes<T>::ACROSS>(total[r], Sum());
      const float inverse = __fdividef(1, weight == 0 ? 1 : weight);
#pragma unroll
      for (float& x : sums.at[r]) x *= inverse;
    }
  }
};

template <typename T, int DIM>
__global__ void __launch_bounds__(MOST_WARPS<T>* WARP, 2)
    attention_kernel(Inputs<T> in, T* out, Plan plan) {  // out (B, M, H, D)
  const int block_warp = threadIdx.x / WARP, block = (int)blockIdx.x / plan.by_blocks;
  const int team_index = block_warp / plan.by_warps, warp = block_warp - team_index * plan.warps;
  const Team team{warp * WARP + lane(), plan.warps * WARP};
  const AttentionHead head(in, block * plan.sequences + team_index);
  const int first = ((int)blockIdx.x - block * plan.blocks) * plan.warps * TILE;
  T* const queries = &shared<T>() + team_index * room_for<T, DIM>(plan);
  T* const keys = queries + plan.warps * TILE * DIM;
  T* const own_rows = queries + warp * TILE * DIM;
  float* const room = (float*)(keys + 2 * plan.buffers * plan.stage * DIM) + warp * TILE * CHUNK;

  const int n_keys = head.keys(), stage_size = plan.stage * DIM;
  const auto load_stage = [&](int i) {
    T* const to = keys + (i & (plan.buffers - 1)) * 2 * stage_size;
    load_rows<DIM>(to, head.k(in), i * plan.stage, plan.stage, in.D, in.packed, team);
    load_rows<DIM>(to + stage_size, head.v(in), i * plan.stage, plan.stage, in.D, in.packed, team);
  };
  load_rows<DIM>(queries, head.q(in.q), first, plan.warps * TILE, in.D, in.packed, team);

  Query<T, DIM> query;
  const float scale = in.to_log2();
  // several sequences of a block have a stage each
  in_stages(n_keys, plan.stage, load_stage, [&](int i) {
    T* const k = keys + (i & (plan.buffers - 1)) * 2 * stage_size;
    if (in.q_scale) {
      if (i == 0) normalise<DIM>(queries, plan.warps * TILE, in.q_scale, in.D, team);
      normalise<DIM>(k, plan.stage, in.k_scale, in.D, team);
    }
    __syncthreads();
    const Own<T, DIM> own(own_rows);
    const int here = min(plan.stage, n_keys - i * plan.stage);
    int j = 0;
    for (; j + CHUNK <= here; j += CHUNK)
      query.template attend<CHUNK>(own, k + j * DIM, k + stage_size + j * DIM, here - j, scale,
                                   room);
    for (; j < here; j += 16)
      query.template attend<16>(own, k + j * DIM, k + stage_size + j * DIM, here - j, scale, room);
  });

  query.divide();
  put<T>(own_rows, query.sums);
  __syncwarp();
  constexpr int PIECES = DIM / PACK<T>;
  for (int i = lane(); i < TILE * PIECES; i += WARP) {
    const int row = first + warp * TILE + i / PIECES, d = i % PIECES * PACK<T>;
    if (row >= head.queries) break;
    T* const to = out + (((int64_t)head.b * in.M + row) * in.H + head.h) * in.D + d;
    store_piece(to, piece<DIM>(own_rows, i / PIECES, i % PIECES), in.D - d, in.packed);
  }
}

}  // namespace

void attention(const Launch& on, const void* q, const void* k, const void* v, const float* null_kv,
               const float* q_scale, const float* k_scale, const int64_t* lengths, void* out,
               int64_t q_b, int64_t q_h, int64_t q_m, int64_t k_b, int64_t k_h, int64_t k_n,
               int64_t v_b, int64_t v_h, int64_t v_n, int64_t B, int64_t H, int64_t M, int64_t N,
               int64_t D) {
  if (B * H * M * D == 0) return;
  by_dtype(on.dtype, [&](auto zero) {
    using T = decltype(zero);
    Inputs<T> in = inputs_of<T>({(const T*)q, q_b, q_h, q_m}, {(const T*)k, k_b, k_h, k_n},
                                {(const T*)v, v_b, v_h, v_n}, null_kv, q_scale, k_scale, lengths, B,
                                H, M, N, D);
    in.packed = in.packed && aligned((int64_t)out);
    by_dim(D, [&](auto dim) {
      constexpr int DIM = decltype(dim)::value;
      const Plan plan = plan_for<T>(M, N + (null_kv != nullptr));
      launch(on, attention_kernel<T, DIM>, ceil_div(B * H, plan.sequences) * plan.blocks,
             plan.sequences * plan.warps * WARP,
             plan.sequences * room_for<T, DIM>(plan) * sizeof(T), in, (T*)out, plan);
    });
  });
}

}  // namespace tsgen::cuda
