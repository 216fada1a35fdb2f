// Two products with the same streamed matrix G (N, D): S = F Gᵀ of 64 rows of F (.., D) and 64 of G
// at a time, and out += P G, where P is what a caller makes of S in its place.
//
// A block has DIMS columns of `out`, a piece of them. S needs all dims, piece by piece, that of
// `out` last: P G then finds its part of G in shared memory.
#pragma once

#include "cuda/machine/pieces.cuh"

namespace tsgen::cuda {

constexpr int PAIR_THREADS = 128, PAIR_ROWS = 64;

// Of float16 and bfloat16, by tensor cores. A warp has 16 rows of F. ONE_: D is at most 16 STEPS.
template <typename T_, int STEPS, bool ONE_>
struct HalfPair {
  using T = T_;
  static constexpr bool ONE = ONE_;
  static constexpr int N_ROWS = 2, N_COLUMNS = 16, LANES = 4, DIMS = 16 * STEPS, STAGES = 2;
  static constexpr int N_OUT = DIMS / LANES, PIECES = DIMS / 8;
  struct Shared {
    T streamed[STAGES][PAIR_ROWS][DIMS];  // row i has its pieces in the order of piece ^ key(i)
  };
  FragmentA fixed[STEPS];
  FragmentC s[PAIR_ROWS / 8], sum[DIMS / 8];

  // Of S and P: row i and column j of this thread; and so of `out`.
  __device__ __forceinline__ float& at(int i, int j) { return s[j / 2].at[2 * i + j % 2]; }
  __device__ __forceinline__ float& out(int i, int j) { return sum[j / 2].at[2 * i + j % 2]; }
  static __device__ __forceinline__ int row_of(int i) {
    return threadIdx.x / WARP * 16 + 8 * i + threadIdx.x % WARP / 4;
  }
  static __device__ __forceinline__ int column_of(int j) {
    return j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2;
  }
  static __device__ __forceinline__ int dim_of(int j) { return column_of(j); }
  // 8 rows of which one piece is read together lie in different banks, and so do two of which four
  static __device__ __forceinline__ int key(int row) { return row % 2 * 4 + row / 2 % 4; }

  // row(i): where it is, or null
  template <typename Row>
  __device__ __forceinline__ void load_fixed(Shared&, const Row& row, int piece, int D,
                                             bool packed) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const T* const from = row(row_of(i));
#pragma unroll
      for (int k = 0; k < STEPS; k += 2) {
        const uint4 words = load_words(from, from, piece * DIMS + k * 16, D, packed);
        fixed[k].word[i] = words.x, fixed[k].word[2 + i] = words.y;
        fixed[k + 1].word[i] = words.z, fixed[k + 1].word[2 + i] = words.w;
      }
    }
  }

  template <typename Row>
  static __device__ __forceinline__ void fetch(Shared& room, int stage, const Row& row, int piece,
                                               int D, bool packed) {
    for (int i = threadIdx.x; i < PAIR_ROWS * PIECES; i += PAIR_THREADS) {
      const T* const from = row(i / PIECES);
      copy_piece(&room.streamed[stage][i / PIECES][(i % PIECES ^ key(i / PIECES)) * 8], from, from,
                 piece * DIMS + i % PIECES * 8, D, packed);
    }
  }

  __device__ __forceinline__ void add_first(Shared& room, int stage) {
    const int lane = threadIdx.x % WARP, row = lane / 4;
    const T* const from = room.streamed[stage][row];
#pragma unroll
    for (int k = 0; k < STEPS; k += 2)
#pragma unroll
      for (int n = 0; n < PAIR_ROWS / 8; ++n) {
        const uint4 b = *(const uint4*)(from + n * 8 * DIMS + ((2 * k + lane % 4) ^ key(row)) * 8);
        multiply_add<T>(s[n], fixed[k], {b.x, b.y});
        multiply_add<T>(s[n], fixed[k + 1], {b.z, b.w});
      }
  }

  __device__ __forceinline__ void add_second(Shared& room, int stage) {
    const int lane = threadIdx.x % WARP;
    const T* const from = room.streamed[stage][lane % 16];
#pragma unroll
    for (int k = 0; k < PAIR_ROWS / 16; ++k) {
      FragmentA p;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const FragmentC& c = s[2 * k + i / 2];
        p.word[i] = pack<T>(c.at[i % 2 * 2], c.at[i % 2 * 2 + 1]);
      }
#pragma unroll
      for (int n = 0; n < DIMS / 8; n += 2) {
        uint32_t b[4];
        load_matrices<true>(b, from + k * 16 * DIMS + ((n + lane / 16) ^ key(lane)) * 8);
        multiply_add<T>(sum[n], p, {b[0], b[1]});
        multiply_add<T>(sum[n + 1], p, {b[2], b[3]});
      }
    }
  }
};

// Of float32, by FMA: a thread has 4 rows x 8 columns of S, and 4 x 16 of `out`.
struct FloatPair {
  using T = float;
  static constexpr bool ONE = false;
  static constexpr int N_ROWS = 4, N_COLUMNS = 8, LANES = 8, DIMS = 128, STAGES = 1, N_OUT = 16;
  static constexpr int PIECES = DIMS / 4;
  struct Shared {  // 4 more numbers a row: 8 rows that are read together lie in different banks
    float fixed[PAIR_ROWS][DIMS + 4], streamed[STAGES][PAIR_ROWS][DIMS + 4];
    float p[PAIR_ROWS][PAIR_ROWS + 4];
  };
  float s[N_ROWS][N_COLUMNS], sum[N_ROWS][N_OUT];

  __device__ __forceinline__ float& at(int i, int j) { return s[i][j]; }
  __device__ __forceinline__ float& out(int i, int j) { return sum[i][j]; }
  static __device__ __forceinline__ int row_of(int i) {
    return i * (PAIR_ROWS / N_ROWS) + threadIdx.x / LANES;
  }
  static __device__ __forceinline__ int column_of(int j) { return j * LANES + threadIdx.x % LANES; }
  static __device__ __forceinline__ int dim_of(int j) {
    return j / 4 * 4 * LANES + threadIdx.x % LANES * 4 + j % 4;
  }

  template <typename Row>
  static __device__ __forceinline__ void copy(float (*to)[DIMS + 4], const Row& row, int piece,
                                              int D, bool packed) {
    for (int i = threadIdx.x; i < PAIR_ROWS * PIECES; i += PAIR_THREADS) {
      const float* const from = row(i / PIECES);
      copy_piece(&to[i / PIECES][i % PIECES * 4], from, from, piece * DIMS + i % PIECES * 4, D,
                 packed);
    }
  }
  template <typename Row>
  __device__ __forceinline__ void load_fixed(Shared& room, const Row& row, int piece, int D,
                                             bool packed) {
    copy(room.fixed, row, piece, D, packed);
  }
  template <typename Row>
  static __device__ __forceinline__ void fetch(Shared& room, int stage, const Row& row, int piece,
                                               int D, bool packed) {
    copy(room.streamed[stage], row, piece, D, packed);
  }

  __device__ __forceinline__ void add_first(Shared& room, int stage) {
#pragma unroll 2
    for (int d = 0; d < DIMS; d += 4) {
      float4 g[N_COLUMNS];
#pragma unroll
      for (int j = 0; j < N_COLUMNS; ++j) g[j] = *(float4*)&room.streamed[stage][column_of(j)][d];
#pragma unroll
      for (int i = 0; i < N_ROWS; ++i) {
        const float4 f = *(float4*)&room.fixed[row_of(i)][d];
#pragma unroll
        for (int j = 0; j < N_COLUMNS; ++j)
          s[i][j] =
              fmaf(f.w, g[j].w, fmaf(f.z, g[j].z, fmaf(f.y, g[j].y, fmaf(f.x, g[j].x, s[i][j]))));
      }
    }
  }

  __device__ __forceinline__ void add_second(Shared& room, int stage) {
#pragma unroll
    for (int i = 0; i < N_ROWS; ++i)
#pragma unroll
      for (int j = 0; j < N_COLUMNS; ++j) room.p[row_of(i)][column_of(j)] = s[i][j];
    __syncwarp();  // a row of P is a warp's own
#pragma unroll 4
    for (int n = 0; n < PAIR_ROWS; ++n) {
      float p[N_ROWS];
#pragma unroll
      for (int i = 0; i < N_ROWS; ++i) p[i] = room.p[row_of(i)][n];
#pragma unroll
      for (int j = 0; j < N_OUT; j += 4) {
        const float4 g = *(float4*)&room.streamed[stage][n][dim_of(j)];
#pragma unroll
        for (int i = 0; i < N_ROWS; ++i) {
          sum[i][j] = fmaf(p[i], g.x, sum[i][j]);
          sum[i][j + 1] = fmaf(p[i], g.y, sum[i][j + 1]);
          sum[i][j + 2] = fmaf(p[i], g.z, sum[i][j + 2]);
          sum[i][j + 3] = fmaf(p[i], g.w, sum[i][j + 3]);
        }
      }
    }
  }
};

// What a block computes: fixed(i) is row i of F, fetch(stage, tile, piece) begins to copy a piece
// of a tile of G, and take(tile) makes P of S.
template <bool BOTH, typename Pair, typename Fixed, typename Fetch, typename Take>
__device__ __forceinline__ void multiply_pair(Pair& pair, typename Pair::Shared& room, int n_tiles,
                                              int out_piece, int D, bool packed, const Fixed& fixed,
                                              const Fetch& fetch, const Take& take) {
  const int n_pieces = Pair::ONE ? 1 : max(1, (int)ceil_div(D, Pair::DIMS));
  const int n = n_tiles * n_pieces;
  const int first = out_piece + 1 == n_pieces ? 0 : out_piece + 1;
  const auto next = [&](int piece) { return piece + 1 == n_pieces ? 0 : piece + 1; };
#pragma unroll
  for (int i = 0; i < Pair::N_ROWS; ++i)
#pragma unroll
    for (int j = 0; j < Pair::N_OUT; ++j) pair.out(i, j) = 0;
  if (n_pieces == 1) pair.load_fixed(room, fixed, 0, D, packed);
  if (Pair::STAGES == 2 && n > 0) fetch(0, 0, first);
  for (int i = 0, tile = 0, piece = first; i < n; ++i) {
    if (Pair::STAGES == 1) __syncthreads();  // what was there before has been read
    if (n_pieces > 1) pair.load_fixed(room, fixed, piece, D, packed);
    if (Pair::STAGES == 1) fetch(0, tile, piece);
    end_copies();
    wait_for_copies<0>();
    __syncthreads();
    const int stage = Pair::STAGES == 2 ? i % 2 : 0;
    if (Pair::STAGES == 2 && i + 1 < n) fetch(1 - stage, tile + (piece == out_piece), next(piece));
    if (piece == first) {
#pragma unroll
      for (int r = 0; r < Pair::N_ROWS; ++r)
#pragma unroll
        for (int j = 0; j < Pair::N_COLUMNS; ++j) pair.at(r, j) = 0;
    }
    pair.add_first(room, stage);
    if (piece == out_piece) {
      take(tile++);
      if (BOTH) pair.add_second(room, stage);
    }
    piece = next(piece);
  }
  end_copies();
  wait_for_copies<0>();
}

}  // namespace tsgen::cuda
