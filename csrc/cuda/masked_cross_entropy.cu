// Head and cross-entropy on some rows: logits live in a tile of rows x codes at a time.
//
// As in kernels/masked_cross_entropy.py: the gradient of h comes with the loss, weights being
// summed up unnormalised while the largest logit is searched. That of W computes the logits again,
// codes staying where they are, a part of the rows in each block. Parts are added up in order.
#include "cuda/cross_entropy_rows.cuh"
#include "ops_cuda.h"

namespace tsgen::cuda {
namespace {

constexpr int THREADS = 256;
constexpr int64_t ROWS_OF_PART = 512;          // of the gradient of W, at least
constexpr int64_t MOST_BLOCKS_OF_CODES = 264;  // two on each multiprocessor of an H100

// A block has 64 codes, a piece of the dims of their gradients, and a part of the rows.
template <typename Pair>
__global__ void __launch_bounds__(PAIR_THREADS, 2)
    codes_kernel(Loss<typename Pair::T> loss, const Row* known, float* parts,  // (n_parts, K, D)
                 float* bias_parts,                                            // (n_parts, K)
                 int64_t rows_of_part) {
  auto& room = shared<typename Pair::Shared>();
  __shared__ Row tiles[3][PAIR_ROWS];
  const int n_pieces = max(1, (int)ceil_div(loss.D, Pair::DIMS));
  const int n_blocks = (int)ceil_div(loss.K, PAIR_ROWS), piece = blockIdx.x % n_pieces;
  const int first = blockIdx.x / n_pieces % n_blocks * PAIR_ROWS;
  const int64_t part = blockIdx.x / n_pieces / n_blocks;
  const int64_t begin = part * rows_of_part, n = min(loss.R - begin, rows_of_part);
  // rows of a tile, copied one tile ahead of those of h that they name
  const auto fetch_rows = [&](int tile) {
    const int64_t r = (int64_t)tile * PAIR_ROWS + threadIdx.x;
    if (threadIdx.x < PAIR_ROWS && r < n)
      copy_16(&tiles[tile % 3][threadIdx.x], known + begin + r, true);
  };
  const auto is_row = [&](int tile, int j) { return (int64_t)tile * PAIR_ROWS + j < n; };

  Pair pair;
  float bias[Pair::N_ROWS], sum[Pair::N_ROWS] = {};
#pragma unroll
  for (int i = 0; i < Pair::N_ROWS; ++i) bias[i] = loss.bias_of(first + Pair::row_of(i));
  fetch_rows(0);
  end_copies();
  wait_for_copies<0>();
  __syncthreads();
  multiply_pair<true>(
      pair, room, (int)ceil_div(n, PAIR_ROWS), piece, loss.D, loss.packed,
      [&](int i) { return loss.code(first + i); },
      [&](int stage, int tile, int of) {
        const auto row = [&](int j) {
          return is_row(tile, j) ? loss.row(tiles[tile % 3][j].row) : nullptr;
        };
        Pair::fetch(room, stage, row, of, loss.D, loss.packed);
        if (of == piece) fetch_rows(tile + 1);
      },
      [&](int tile) {
#pragma unroll
        for (int j = 0; j < Pair::N_COLUMNS; ++j) {
          const int column = Pair::column_of(j);
          const bool is = is_row(tile, column);
          const Row& row = tiles[tile % 3][column];
          const float log_total = is ? row.log_total : INFINITY;
          const int target = is ? row.target - first : -1;
#pragma unroll
          for (int i = 0; i < Pair::N_ROWS; ++i) {
            float p = exp_fast(pair.at(i, j) + bias[i] - log_total);
            if (target == Pair::row_of(i)) p -= 1;
            sum[i] += p;
            pair.at(i, j) = p;
          }
        }
      });
#pragma unroll
  for (int i = 0; i < Pair::N_ROWS; ++i) {
    const int k = first + Pair::row_of(i);
    const float grad_bias = over_lanes<Pair::LANES>(sum[i], Sum());
    if (k >= loss.K) continue;
    if (piece == 0 && threadIdx.x % Pair::LANES == 0) bias_parts[part * loss.K + k] = grad_bias;
#pragma unroll
    for (int j = 0; j < Pair::N_OUT; ++j) {
      const int d = piece * Pair::DIMS + Pair::dim_of(j);
      if (d < loss.D) parts[(part * loss.K + k) * loss.D + d] = pair.out(i, j);
    }
  }
}

__global__ void __launch_bounds__(THREADS)
    add_parts_kernel(const float* parts, float* sum, int64_t n, int64_t n_parts, float scale) {
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  float total = 0;
  for (int64_t part = 0; part < n_parts; ++part) total += parts[part * n + i];
  sum[i] = total * scale;
}

__global__ void __launch_bounds__(THREADS)
    mean_kernel(const double* sums, float* loss, int64_t n, int64_t R) {
  __shared__ double room[THREADS / WARP];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += sums[i];
  sum = over_block(sum, room, Sum());
  if (threadIdx.x == 0) *loss = (float)(sum / (double)max(R, (int64_t)1));
}

__global__ void __launch_bounds__(THREADS) clear_kernel(uint16_t* out, int64_t n) {
  const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8;
  if (i + 8 <= n && (uintptr_t)out % 16 == 0)
    *(uint4*)(out + i) = {0, 0, 0, 0};
  else
    for (int64_t j = i; j < min(n, i + 8); ++j) out[j] = 0;
}

// Of scratch memory, in the order in which they lie there.
struct Sizes {
  int64_t n_blocks, n_parts, R, K, D;

  Sizes(int64_t R, int64_t K, int64_t D) : n_blocks(ceil_div(R, PAIR_ROWS)), R(R), K(K), D(D) {
    const int64_t blocks_of_codes = ceil_div(K, PAIR_ROWS) * max((int64_t)1, ceil_div(D, 128));
    const int64_t most = max((int64_t)1, MOST_BLOCKS_OF_CODES / max((int64_t)1, blocks_of_codes));
    n_parts = max((int64_t)1, min(most, R / ROWS_OF_PART));
  }
  int64_t losses() const { return ceil_div(n_blocks * sizeof(double), 16) * 16; }
  int64_t known() const { return R * (int64_t)sizeof(Row); }
  int64_t parts() const { return n_parts * K * D * (int64_t)sizeof(float); }
  int64_t bias_parts() const { return n_parts * K * (int64_t)sizeof(float); }
};

// do_it(a product pair for D) of the launch's dtype.
template <typename F>
void by_pair(Dtype dtype, int64_t D, const F& do_it) {
  by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 4)
      return do_it((FloatPair*)nullptr);
    else if (D <= 64)
      return do_it((HalfPair<T, 4, true>*)nullptr);
    else if (D <= 128)
      return do_it((HalfPair<T, 8, true>*)nullptr);
    else
      return do_it((HalfPair<T, 8, false>*)nullptr);
  });
}

template <typename T>
Loss<T> loss_of(const void* h, const void* weight, const float* bias, const int64_t* rows,
                const int64_t* target, int64_t M, int64_t R, int64_t K, int64_t D) {
  return {(const T*)h, (const T*)weight,
          bias,        rows,
          target,      M,
          R,           (int)K,
          (int)D,      in_pieces<T>(D, {h, weight})};
}

}  // namespace

int64_t masked_cross_entropy_scratch(int64_t, int64_t R, int64_t K, int64_t D) {
  return Sizes(R, K, D).losses();
}

void masked_cross_entropy(const Launch& on, const void* h, const void* weight, const float* bias,
                          const int64_t* rows, const int64_t* target, float* loss, int64_t M,
                          int64_t R, int64_t K, int64_t D) {
  const Sizes sizes(R, K, D);
  double* const losses = (double*)on.scratch;
  if (R > 0)
    by_pair(on.dtype, D, [&](auto* null) {
      using Pair = std::remove_pointer_t<decltype(null)>;
      using T = typename Pair::T;
      launch(on, rows_kernel<Pair, false>, sizes.n_blocks, PAIR_THREADS,
             sizeof(typename Pair::Shared), loss_of<T>(h, weight, bias, rows, target, M, R, K, D),
             losses, (Row*)nullptr, (T*)nullptr);
    });
  launch(on, mean_kernel, 1, THREADS, 0, (const double*)losses, loss, sizes.n_blocks, R);
}

int64_t masked_cross_entropy_backward_scratch(int64_t, int64_t R, int64_t K, int64_t D) {
  const Sizes sizes(R, K, D);
  return sizes.losses() + sizes.known() + sizes.parts() + sizes.bias_parts();
}

void masked_cross_entropy_backward(const Launch& on, const void* h, const void* weight,
                                   const float* bias, const int64_t* rows, const int64_t* target,
                                   float* loss, void* grad_h, float* grad_weight, float* grad_bias,
                                   int64_t M, int64_t R, int64_t K, int64_t D) {
  const Sizes sizes(R, K, D);
  char* const scratch = (char*)on.scratch;
  double* const losses = (double*)scratch;
  Row* const known = (Row*)(scratch + sizes.losses());
  float* const parts = (float*)((char*)known + sizes.known());
  float* const bias_parts = (float*)((char*)parts + sizes.parts());
  const int64_t n_words = M * D * (on.dtype == Dtype::float32 ? 2 : 1);
  if (n_words > 0)
    launch(on, clear_kernel, ceil_div(n_words, THREADS * 8), THREADS, 0, (uint16_t*)grad_h,
           n_words);
  if (R > 0)
    by_pair(on.dtype, D, [&](auto* null) {
      using Pair = std::remove_pointer_t<decltype(null)>;
      using T = typename Pair::T;
      const auto args = loss_of<T>(h, weight, bias, rows, target, M, R, K, D);
      const int64_t n_pieces = max((int64_t)1, ceil_div(D, Pair::DIMS));
      const size_t bytes = sizeof(typename Pair::Shared);
      launch(on, rows_kernel<Pair, true>, sizes.n_blocks * n_pieces, PAIR_THREADS, bytes, args,
             losses, known, (T*)grad_h);
      if (K > 0)
        launch(on, codes_kernel<Pair>, ceil_div(K, PAIR_ROWS) * n_pieces * sizes.n_parts,
               PAIR_THREADS, bytes, args, (const Row*)known, parts, bias_parts,
               ceil_div(R, sizes.n_parts));
    });
  const int64_t n_parts = R > 0 ? sizes.n_parts : 0;
  const float scale = 1 / (float)max(R, (int64_t)1);
  const auto add = [&](const float* from, float* to, int64_t n) {
    if (to && n > 0)
      launch(on, add_parts_kernel, ceil_div(n, THREADS), THREADS, 0, from, to, n, n_parts, scale);
  };
  add(parts, grad_weight, K * D);
  add(bias_parts, grad_bias, K);
  launch(on, mean_kernel, 1, THREADS, 0, (const double*)losses, loss, sizes.n_blocks, R);
}

}  // namespace tsgen::cuda
