// One transformer block in one kernel: a CTA takes whole sequences, see block.cuh.
#include "cuda/block.cuh"
#include "ops_cuda.h"

namespace tsgen::cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(BLOCK_THREADS, 1)
    transformer_block_kernel(const T* x, T* out, BlockWeights<T> weights,  // x (S T, D)
                             BlockSizes sizes, BlockRoom room, int64_t n_rows) {
  const BlockTile<T> tile(&shared<char>(), sizes, room);
  const int64_t first = (int64_t)blockIdx.x * room.M;
  each_warp(room.M, [&](int m) {
    for (int i = threadIdx.x % WARP; i < sizes.D; i += WARP)
      tile.x.at(m, i) = first + m < n_rows ? load(x[(first + m) * sizes.D + i]) : 0;
  });
  __syncthreads();
  tile.block(weights);
  each_warp(room.M, [&](int m) {
    for (int i = threadIdx.x % WARP; i < sizes.D && first + m < n_rows; i += WARP)
      out[(first + m) * sizes.D + i] = store<T>(tile.x.at(m, i));
  });
}

template <typename T>
void start(const Launch& on, const void* x, void* out, const BlockWeights<T>& weights,
           const BlockSizes& sizes, int64_t S) {
  const int fit = MOST_ROWS / sizes.T;
  const BlockRoom room = block_room(sizes, together(S, fit, on.device));
  launch(on, transformer_block_kernel<T>, ceil_div(S, room.G), BLOCK_THREADS, room.n_bytes,
         (const T*)x, (T*)out, weights, sizes, room, S * sizes.T);
}

}  // namespace

int64_t transformer_block_shared(int64_t T, int64_t D, int64_t H, int64_t Dh, int64_t F) {
  const BlockSizes sizes{(int)T, (int)D, (int)H, (int)Dh, (int)F, 0, 0};
  return T < MOST_ROWS ? block_room(sizes, MOST_ROWS / (int)T).n_bytes : INT64_MAX;
}

void transformer_block(const Launch& on, const void* x, const float* gain_in, const float* shift_in,
                       const void* qkv, const float* null_kv, const float* q_scale,
                       const float* k_scale, const void* out_weight, const float* gain_out,
                       const float* shift_out, const float* gain_ff, const float* shift_ff,
                       const void* up, const float* gain_mid, const float* shift_mid,
                       const void* down, void* out, int64_t S, int64_t T, int64_t D, int64_t H,
                       int64_t Dh, int64_t F, int64_t down_stride, double eps) {
  if (S == 0) return;
  const BlockSizes sizes{(int)T, (int)D, (int)H, (int)Dh, (int)F, (int)down_stride, (float)eps};
  const auto run = [&](auto zero) {
    using Number = decltype(zero);
    const BlockWeights<Number> weights{gain_in,
                                       shift_in,
                                       null_kv,
                                       q_scale,
                                       k_scale,
                                       gain_out,
                                       shift_out,
                                       gain_ff,
                                       shift_ff,
                                       gain_mid,
                                       shift_mid,
                                       (const Number*)qkv,
                                       (const Number*)out_weight,
                                       (const Number*)up,
                                       (const Number*)down};
    start(on, x, out, weights, sizes, S);
  };
  if (on.dtype == Dtype::bfloat16) return run(BFloat16());
  run(Half());
}

}  // namespace tsgen::cuda
