// Gradients of attention for sequences that do not fit into shared memory: a kernel for queries,
// and one for keys. What is met comes in two buffers.
#include "cuda/attention_gradients.cuh"

namespace tsgen::cuda {
namespace {

// Shared memory of a block that has some rows of a sequence and meets others in two buffers.
template <typename T, int DIM>
__host__ __device__ constexpr int staged_room(const Plan& plan) {
  const int own = plan.warps * (2 * TILE * ROW<T, DIM> + DIM);
  const int rooms = sizeof(T) == 4 ? plan.warps * TILE * CHUNK : 0;
  return own + rooms + 4 * plan.stage * ROW<T, DIM> + 2 * plan.stage;
}

template <typename T, int DIM>
struct Staged {
  float *sums, *room;  // of all warps; of this one
  T *own, *other;      // of this warp, two times 16 rows; two times two times plan.stage rows
  Weighing* weighing;  // plan.stage

  __device__ __forceinline__ explicit Staged(const Plan& plan) {
    const int warp = threadIdx.x / WARP;
    sums = &shared<float>();
    T* const all_own = (T*)(sums + plan.warps * DIM);
    own = all_own + warp * 2 * TILE * DIM;
    other = all_own + plan.warps * 2 * TILE * DIM;
    weighing = (Weighing*)(other + 4 * plan.stage * DIM);
    room = (float*)(weighing + plan.stage) + warp * TILE * CHUNK;
  }
};

template <typename T, int DIM>
__global__ void __launch_bounds__(4 * WARP, sizeof(T) == 4 ? 2 : 3)
    attention_queries_kernel(Inputs<T> in, Outputs<T> out, Plan plan) {
  const Team block{(int)threadIdx.x, (int)blockDim.x}, alone{lane(), WARP};
  const int sequence = blockIdx.x / plan.query_blocks;
  const AttentionHead head(in, sequence);
  const int first = (blockIdx.x % plan.query_blocks * plan.warps + threadIdx.x / WARP) * TILE;
  const Staged<T, DIM> at(plan);
  float* const q_sums = at.sums + threadIdx.x / WARP * DIM;
  T* const own_g = at.own + TILE * DIM;
  load_rows<DIM>(at.own, head.q(in.q), first, TILE, in.D, in.packed, alone);
  load_rows<DIM>(own_g, head.q(out.grad), first, TILE, in.D, in.packed, alone);
  for (int d = lane(); d < DIM; d += WARP) q_sums[d] = 0;

  const int size = plan.stage * DIM;
  const auto load_stage = [&](int i) {
    T* const to = at.other + i % 2 * 2 * size;
    const AttentionHead again(in, anew(sequence));
    load_rows<DIM>(to, again.k(in), i * plan.stage, plan.stage, in.D, in.packed, block);
    load_rows<DIM>(to + size, again.v(in), i * plan.stage, plan.stage, in.D, in.packed, block);
  };
  // do_it(chunk, own rows, keys, values, how many)
  const auto with_keys = [&](bool again, const auto& do_it) {
    in_stages(head.keys(), plan.stage, load_stage, [&](int i) {
      T* const k = at.other + i % 2 * 2 * size;
      if (in.q_scale) {
        if (i == 0 && !again) normalise<DIM>(at.own, TILE, in.q_scale, in.D, alone);
        normalise<DIM>(k, plan.stage, in.k_scale, in.D, block);
      }
      __syncthreads();
      const Own<T, DIM> q(at.own), g(own_g);
      const int here = min(plan.stage, head.keys() - i * plan.stage);
      in_chunks(here,
                [&](auto n, int j) { do_it(n, q, g, k + j * DIM, k + size + j * DIM, here - j); });
    });
  };
  Statistics<T> statistics;
  with_keys(false, [&](auto n, const auto& q, const auto& g, const T* k, const T* v, int end) {
    statistics.template meet<DIM, n>(q, g, k, v, end, in.to_log2());
  });
  Weighing of[Lanes<T>::ROWS];
  Weighing* const weighing = out.weighing + ((int64_t)head.b * in.H + head.h) * in.M;
#pragma unroll
  for (int r = 0; r < Lanes<T>::ROWS; ++r) {
    const int row = first + Lanes<T>::row(r);
    of[r] = statistics.weighing(r);
    if (row < in.M && lane() % Lanes<T>::ACROSS == 0) weighing[row] = of[r];
  }
  Sums<T, DIM> dq;
  with_keys(true, [&](auto n, const auto& q, const auto& g, const T* k, const T* v, int end) {
    add_keys<n>(dq, q, g, k, v, end, of, in, at.room);
  });

  // own rows are not needed any more
  write_queries<DIM>(dq, AttentionHead(in, anew(sequence)), first, (float*)at.own, q_sums, in, out);
  if (!in.q_scale) return;
  __syncthreads();
  write_scale_sums<DIM>(at.sums, out.q_sums, in.D);
}

template <typename T, int DIM>
__global__ void __launch_bounds__(4 * WARP, sizeof(T) == 4 ? 2 : 3)
    attention_keys_kernel(Inputs<T> in, Outputs<T> out, Plan plan) {
  const Team block{(int)threadIdx.x, (int)blockDim.x}, alone{lane(), WARP};
  const int sequence = blockIdx.x / plan.key_blocks;
  const AttentionHead head(in, sequence);
  const int first = (blockIdx.x % plan.key_blocks * plan.warps + threadIdx.x / WARP) * TILE;
  const Staged<T, DIM> at(plan);
  float* const k_sums = at.sums + threadIdx.x / WARP * DIM;
  T* const own_v = at.own + TILE * DIM;
  load_rows<DIM>(at.own, head.k(in), first, TILE, in.D, in.packed, alone);
  load_rows<DIM>(own_v, head.v(in), first, TILE, in.D, in.packed, alone);
  for (int d = lane(); d < DIM; d += WARP) k_sums[d] = 0;

  const int size = plan.stage * DIM;
  const auto load_stage = [&](int i) {
    T* const to = at.other + i % 2 * 2 * size;
    const AttentionHead again(in, anew(sequence));
    const auto q = again.q(in.q), g = again.q(out.grad);
    load_rows<DIM>(to, q, i * plan.stage, plan.stage, in.D, in.packed, block);
    load_rows<DIM>(to + size, g, i * plan.stage, plan.stage, in.D, in.packed, block);
  };
  const Weighing* const weighing = out.weighing + ((int64_t)head.b * in.H + head.h) * in.M;
  Sums<T, DIM> dk, dv;
  in_stages(in.M, plan.stage, load_stage, [&](int i) {
    T* const q = at.other + i % 2 * 2 * size;
    for (int row = threadIdx.x; row < plan.stage; row += blockDim.x) {
      const int m = i * plan.stage + row;
      at.weighing[row] = m < in.M ? weighing[m] : Weighing{0, 0};
    }
    if (in.q_scale) {
      if (i == 0) normalise<DIM>(at.own, TILE, in.k_scale, in.D, alone);
      normalise<DIM>(q, plan.stage, in.q_scale, in.D, block);
    }
    __syncthreads();
    in_chunks(min(plan.stage, in.M - i * plan.stage), [&](auto n, int j) {
      add_queries<n>(dk, dv, at.own, own_v, q + j * DIM, q + size + j * DIM, at.weighing + j, in,
                     at.room);
    });
  });
  write_keys<DIM>(dk, dv, AttentionHead(in, anew(sequence)), first, (float*)at.own, k_sums, in,
                  out);
  if (!in.q_scale) return;
  __syncthreads();
  write_scale_sums<DIM>(at.sums, out.k_sums, in.D);
}

}  // namespace

template <typename T, int DIM>
void start_long(const Launch& on, const Inputs<T>& in, const Outputs<T>& out, const Plan& plan) {
  const auto with = [&](auto* kernel, int64_t blocks) {
    if (blocks)
      launch(on, kernel, (int64_t)in.B * in.H * blocks, plan.warps * WARP,
             staged_room<T, DIM>(plan) * sizeof(float), in, out, plan);
  };
  with(attention_queries_kernel<T, DIM>, plan.query_blocks);
  with(attention_keys_kernel<T, DIM>, plan.key_blocks);
}

#define TSGEN_START_LONG(T, DIM) \
  template void start_long<T, DIM>(const Launch&, const Inputs<T>&, const Outputs<T>&, const Plan&);
TSGEN_START_LONG(float, 32)
TSGEN_START_LONG(float, 64)
TSGEN_START_LONG(Half, 32)
TSGEN_START_LONG(Half, 64)
TSGEN_START_LONG(BFloat16, 32)
TSGEN_START_LONG(BFloat16, 64)

}  // namespace tsgen::cuda
