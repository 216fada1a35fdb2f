// One transformer block in one kernel: a CTA takes whole sequences, see narrow.cuh for layers up to
// 128 wide, block.cuh for wider ones.
#include "cuda/narrow.cuh"
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

template <typename T, bool full>
__global__ void __launch_bounds__(NARROW_THREADS, 1)
    transformer_block_narrow_kernel(const T* x, T* out, BlockWeights<T> weights,  // x (S T, D)
                                    const __grid_constant__ BlockSizes sizes,
                                    const __grid_constant__ NarrowRoom room, int64_t n_rows) {
  char* const memory = &shared<char>();
  const NarrowTile<T, full> tile(memory, sizes, room);
  const LayerPanels<T> layer{sizes};
  PanelSource<T>* const table = (PanelSource<T>*)(memory + room.n_bytes);
  for (int i = threadIdx.x; i < layer.count(); i += NARROW_THREADS) table[i] = layer.at(weights, i);
  tile.attention.clear_keys();

  const int D = tile.D(), M = room.G * sizes.T;
  const int64_t first = (int64_t)blockIdx.x * M;
  for (int m = threadIdx.x / WARP; m < M; m += NARROW_WARPS)
    for (int i = threadIdx.x % WARP; i < D; i += WARP)
      tile.x[m * D + (i ^ tile.twist(m))] = first + m < n_rows ? load(x[(first + m) * D + i]) : 0;
  __syncthreads();
  PanelRing<T, TablePanels<T>> panels((T*)memory, room.depth, {table, layer.count()});
  panels.start();
  tile.layer(weights, panels, 0);
  panels.stop();
  __syncthreads();
  for (int m = threadIdx.x / WARP; m < M; m += NARROW_WARPS)
    for (int i = threadIdx.x % WARP; i < D && first + m < n_rows; i += WARP)
      out[(first + m) * D + i] = store<T>(tile.x[m * D + (i ^ tile.twist(m))]);
}

int64_t narrow_bytes(const BlockSizes& z, int G) {
  const NarrowRoom room = narrow_room(z, G);
  return room.n_bytes + LayerPanels<Half>{z}.count() * (int64_t)sizeof(PanelSource<Half>);
}

// That the narrow kernel needs: some layers fit only otherwise on a device that has little.
int64_t narrow_shared(const BlockSizes& z) { return is_narrow(z) ? narrow_bytes(z, 1) : INT64_MAX; }

template <typename T>
void start_narrow(const Launch& on, const T* x, T* out, const BlockWeights<T>& weights,
                  const BlockSizes& sizes, int64_t S) {
  int fit = most_narrow(sizes.T);
  while (fit > 1 && narrow_bytes(sizes, fit) > most_shared(on.device)) --fit;
  const int G = together(S, fit, on.device);
  const auto kernel = sizes.D == WIDTH ? transformer_block_narrow_kernel<T, true>
                                       : transformer_block_narrow_kernel<T, false>;
  launch(on, kernel, ceil_div(S, G), NARROW_THREADS, narrow_bytes(sizes, G), x, out, weights, sizes,
         narrow_room(sizes, G), S * sizes.T);
}

template <typename T>
void start(const Launch& on, const T* x, T* out, const BlockWeights<T>& weights,
           const BlockSizes& sizes, int64_t S) {
  if (narrow_shared(sizes) <= most_shared(on.device))
    return start_narrow(on, x, out, weights, sizes, S);
  const int fit = MOST_ROWS / sizes.T;
  const BlockRoom room = block_room(sizes, together(S, fit, on.device));
  launch(on, transformer_block_kernel<T>, ceil_div(S, room.G), BLOCK_THREADS, room.n_bytes, x, out,
         weights, sizes, room, S * sizes.T);
}

}  // namespace

int64_t transformer_block_shared(int64_t T, int64_t D, int64_t H, int64_t Dh, int64_t F) {
  const BlockSizes sizes{(int)T, (int)D, (int)H, (int)Dh, (int)F, 0, 0};
  const int64_t wide = T < MOST_ROWS ? block_room(sizes, MOST_ROWS / (int)T).n_bytes : INT64_MAX;
  return std::min(wide, narrow_shared(sizes));
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
    start(on, (const Number*)x, (Number*)out, weights, sizes, S);
  };
  if (on.dtype == Dtype::bfloat16) return run(BFloat16());
  run(Half());
}

}  // namespace tsgen::cuda
