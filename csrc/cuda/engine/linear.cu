// Products in float32: a block has a tile of the output, a thread 8 x 4 numbers of it.
//
// Each is one thread's sum over k = 0, 1, ...: its bits depend on its row and its column alone.
#include "cuda/engine/kernels.h"
#include "cuda/machine/functions.cuh"
#include "cuda/machine/pieces.cuh"

namespace tsgen::cuda {
namespace {

constexpr int THREADS = 256, ROWS = 128, COLUMNS = 64, DEPTH = 16;
constexpr int OWN_ROWS = 8, OWN_COLUMNS = 4;  // of a thread
constexpr int ACROSS = COLUMNS / OWN_COLUMNS, PIECES = DEPTH / 4;
constexpr int ROW_PIECES = ROWS * PIECES / THREADS, COLUMN_PIECES = COLUMNS * PIECES / THREADS;
static_assert(COLUMN_PIECES == 1 && ROWS / OWN_ROWS * ACROSS == THREADS);

struct alignas(16) Tiles {  // transposed, so that a thread reads its rows together
  float x[DEPTH][ROWS + 4], weight[DEPTH][COLUMNS + 4];
};

// A thread's pieces of the next tiles.
struct Fetched {
  Pack<float, 4> x[ROW_PIECES], weight;

  __device__ __forceinline__ void fetch(const float* x_in, const float* weight_in, int64_t row,
                                        int column, int k, int64_t M, int N, int K, bool packed) {
    const int i = threadIdx.x / PIECES, d = k + threadIdx.x % PIECES * 4;
#pragma unroll
    for (int p = 0; p < ROW_PIECES; ++p) {
      const int64_t r = row + i + p * (THREADS / PIECES);
      x[p] = load_piece(x_in + r * K, r < M, d, K, packed);
    }
    weight = load_piece(weight_in + (int64_t)(column + i) * K, column + i < N, d, K, packed);
  }

  __device__ __forceinline__ void put(Tiles& tiles) const {
    const int i = threadIdx.x / PIECES, d = threadIdx.x % PIECES * 4;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
#pragma unroll
      for (int p = 0; p < ROW_PIECES; ++p) tiles.x[d + e][i + p * (THREADS / PIECES)] = x[p].at[e];
      tiles.weight[d + e][i] = weight.at[e];
    }
  }
};

__device__ __forceinline__ void multiply(float (&sum)[OWN_ROWS][OWN_COLUMNS], const Tiles& tiles,
                                         int row, int column) {
#pragma unroll
  for (int k = 0; k < DEPTH; ++k) {
    const auto low = *(const Pack<float, 4>*)&tiles.x[k][row];
    const auto high = *(const Pack<float, 4>*)&tiles.x[k][row + 4];
    const auto weight = *(const Pack<float, 4>*)&tiles.weight[k][column];
#pragma unroll
    for (int i = 0; i < OWN_ROWS; ++i)
#pragma unroll
      for (int j = 0; j < OWN_COLUMNS; ++j)
        sum[i][j] = fmaf(i < 4 ? low.at[i] : high.at[i - 4], weight.at[j], sum[i][j]);
  }
}

__global__ void __launch_bounds__(THREADS)
    linear_kernel(const float* x,       // (M, K)
                  const float* weight,  // (N, K)
                  After after, float* out, int64_t M, int N, int K, bool packed) {
  __shared__ Tiles tiles;
  const int across = (int)ceil_div(N, COLUMNS);
  const int64_t first_row = (int64_t)(blockIdx.x / across) * ROWS;
  const int first_column = blockIdx.x % across * COLUMNS;
  const int row = threadIdx.x / ACROSS * OWN_ROWS, column = threadIdx.x % ACROSS * OWN_COLUMNS;
  const bool needed = first_row + row < M && first_column + column < N;
  float sum[OWN_ROWS][OWN_COLUMNS] = {};
  Fetched next;
  next.fetch(x, weight, first_row, first_column, 0, M, N, K, packed);
  for (int k = 0; k < K; k += DEPTH) {
    next.put(tiles);
    __syncthreads();
    if (k + DEPTH < K) next.fetch(x, weight, first_row, first_column, k + DEPTH, M, N, K, packed);
    if (needed) multiply(sum, tiles, row, column);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < OWN_ROWS; ++i)
#pragma unroll
    for (int j = 0; j < OWN_COLUMNS; ++j) {
      const int64_t m = first_row + row + i;
      const int n = first_column + column + j;
      if (m >= M || n >= N) continue;
      float y = sum[i][j];
      if (after.bias) y += after.bias[n];
      if (after.gelu) y = gelu(y);
      if (after.added) y += after.added[m * N + n];
      out[m * N + n] = y;
    }
}

}  // namespace

void linear(const Launch& on, const float* x, const float* weight, const After& after, float* out,
            int64_t M, int64_t N, int64_t K) {
  if (M * N == 0) return;
  launch(on, linear_kernel, ceil_div(M, ROWS) * ceil_div(N, COLUMNS), THREADS, 0, x, weight, after,
         out, M, (int)N, (int)K, in_pieces<float>(K, {x, weight}));
}

}  // namespace tsgen::cuda
