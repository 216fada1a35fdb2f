// The head, logits = h Wᵀ + b, a tile of rows and codes at a time, in the registers of a block.
//
// A thread has CODES codes of a tile that follow each other, in each of its rows. `parts` tiles
// make up CODES * parts such codes, a group: whatever is summed up over one needs no other thread.
#pragma once

#include "cuda/head.cuh"

namespace tsgen::cuda {

// Counts a piece of the dims of a part of a stretch of groups.
struct TileCursor {
  int piece = 0, part = 0, stretch = 0;

  __device__ __forceinline__ void next(int n_pieces, int parts) {
    if (++piece < n_pieces) return;
    piece = 0;
    if (++part == parts) part = 0, ++stretch;
  }
};

// How many rows a block has changes no bit of one: with few blocks, small ones are done sooner.

// Of float16 and bfloat16, by tensor cores. A warp has 16 M rows, whose numbers stay in registers.
// ONE: D is at most 16 STEPS.
template <typename T_, int STEPS, bool ONE, int M, int WARPS>
struct HalfTiles {
  using T = T_;
  static constexpr int THREADS = WARPS * WARP, ROWS = WARPS * 16 * M, ROWS_OF_THREAD = 2 * M;
  static constexpr int CODES = FewCodes<T>::CODES, LANES = 4;
  static constexpr int TILE = CODES * LANES, DIMS = 16 * STEPS, STAGES = 3, PIECES = DIMS / 8;
  struct Shared {
    T weight[STAGES][TILE][DIMS];  // row i has its pieces in the order of piece ^ key(i)
    float4 bias[STAGES][CODES / 4][LANES];
  };
  using Rows = FragmentA[M][STEPS];
  using Logits = FragmentC[M][TILE / 8];

  static __device__ __forceinline__ float& logit(Logits& c, int i, int code) {
    return c[i / 2][code / 2].at[i % 2 * 2 + code % 2];
  }
  static __device__ __forceinline__ int row_of(int i) {
    return threadIdx.x / WARP * 16 * M + 8 * i + threadIdx.x % WARP / 4;
  }
  static __device__ __forceinline__ int lane_of_row() { return threadIdx.x % LANES; }
  // two codes whose rows are read together lie in different banks
  static __device__ __forceinline__ int key(int code) { return code % 2 * 4; }

  static __device__ __forceinline__ void fetch(const Head<T>& head, Shared& room, int stage,
                                               const TileCursor& at) {
    const int piece = threadIdx.x % PIECES, d = at.piece * DIMS + piece * 8;
    const auto code_of = [&](int code) {
      const int group = at.stretch * LANES + code / CODES;
      return (group * head.parts + at.part) * CODES + code % CODES;
    };
#pragma unroll
    for (int i = 0; i < TILE * PIECES / THREADS; ++i) {
      const int code = threadIdx.x / PIECES + i * (THREADS / PIECES), k = code_of(code);
      copy_piece(&room.weight[stage][code][(piece ^ key(code)) * 8], head.code(k), k < head.K, d,
                 head.D, head.packed);
    }
    if (threadIdx.x >= TILE / 4) return;
    const int k = code_of(threadIdx.x * 4);
    float4* const to = &room.bias[stage][threadIdx.x % (CODES / 4)][threadIdx.x / (CODES / 4)];
    if (head.bias_packed && k + 4 <= head.K)
      copy_16(to, head.bias + k, true);
    else
      *to = {head.bias_of(k), head.bias_of(k + 1), head.bias_of(k + 2), head.bias_of(k + 3)};
  }

  static __device__ __forceinline__ void load_rows(const Head<T>& head, int64_t first, int piece,
                                                   Rows& a) {
#pragma unroll
    for (int i = 0; i < ROWS_OF_THREAD; ++i) {
      const int64_t r = first + row_of(i);
#pragma unroll
      for (int k = 0; k < STEPS; k += 2) {
        const uint4 words =
            load_words(head.row(r), r < head.R, piece * DIMS + k * 16, head.D, head.packed);
        a[i / 2][k].word[i % 2] = words.x, a[i / 2][k].word[2 + i % 2] = words.y;
        a[i / 2][k + 1].word[i % 2] = words.z, a[i / 2][k + 1].word[2 + i % 2] = words.w;
      }
    }
  }

  static __device__ __forceinline__ void begin_with_bias(Logits& c, const float4 (*bias)[LANES]) {
#pragma unroll
    for (int j = 0; j < CODES; j += 4) {
      const float4 b = bias[j / 4][lane_of_row()];
#pragma unroll
      for (int i = 0; i < ROWS_OF_THREAD; ++i)
        logit(c, i, j) = b.x, logit(c, i, j + 1) = b.y, logit(c, i, j + 2) = b.z,
                    logit(c, i, j + 3) = b.w;
    }
  }

  static __device__ __forceinline__ void multiply(Logits& c, const Rows& a,
                                                  const T (*weight)[DIMS]) {
    const int lane = threadIdx.x % WARP, code = lane / 8 * CODES + lane / 4 % 2;
    const T* const from = weight[code] + lane % 4 * 8;
#pragma unroll
    for (int k = 0; k < STEPS; k += 2)
#pragma unroll
      for (int n = 0; n < TILE / 8; ++n) {  // 8 codes, two in each group
        const uint4 b = *(const uint4*)(from + 2 * n * DIMS + (k * 16 ^ key(code) * 8));
#pragma unroll
        for (int m = 0; m < M; ++m) {
          multiply_add<T>(c[m][n], a[m][k], {b.x, b.y});
          multiply_add<T>(c[m][n], a[m][k + 1], {b.z, b.w});
        }
      }
  }

  // take(group, part, logits): this thread's of each tile, in the order of its codes.
  template <typename Take>
  static __device__ __forceinline__ void each(const Head<T>& head, int64_t first, Shared& room,
                                              const Take& take) {
    const int warp = threadIdx.x / WARP, n_pieces = ONE ? 1 : (int)ceil_div(head.D, DIMS);
    const int n = n_pieces * head.parts * (int)ceil_div(head.K, TILE * head.parts);
    // Two warps that share an arithmetic unit take turns in tensor cores and exponentials.
    const bool late = warp >= 4;
    Rows a;
    Logits c;
    TileCursor to, at;
    const auto begin = [&](int i) {
      if (i < n) fetch(head, room, i % STAGES, to);
      to.next(n_pieces, head.parts);
      end_copies();
    };
    const auto arrive = [&](int i) {
      wait_for_copies<STAGES - 2>();
      __syncthreads();  // tile i is there, and all are done with the one before
      begin(i + STAGES - 1);
    };
    for (int i = 0; i < STAGES - 1; ++i) begin(i);
    if (first + warp * 16 * M >= head.R) {  // no rows, but its share of the copies
      for (int i = 0; i < n; ++i) arrive(i);
    } else {
      if (ONE) load_rows(head, first, 0, a);
      if (late) arrive(0);
      for (int i = 0; i < n; ++i, at.next(n_pieces, head.parts)) {
        if (!late) arrive(i);
        if (at.piece == 0) begin_with_bias(c, room.bias[i % STAGES]);
        if (!ONE) load_rows(head, first, at.piece, a);
        multiply(c, a, room.weight[i % STAGES]);
        if (late && i + 1 < n) arrive(i + 1);
        if (at.piece == n_pieces - 1) take(at.stretch * LANES + lane_of_row(), at.part, c);
      }
    }
    wait_for_copies<0>();
    __syncthreads();
  }
};

// Of float32, by FMA in the order of the dims: a thread has N rows x 8 codes.
template <int N>
struct FloatTiles {
  using T = float;
  static constexpr int THREADS = 128, ROWS = 16 * N, ROWS_OF_THREAD = N;
  static constexpr int CODES = FewCodes<T>::CODES, LANES = 8;
  static constexpr int TILE = CODES * LANES, DIMS = 32, STAGES = 2, PIECES = DIMS / 4;
  static constexpr int PITCH = DIMS + 4;  // 8 rows that are read together lie in different banks
  struct Shared {
    float h[STAGES][ROWS][PITCH];
    float weight[STAGES][TILE][PITCH];  // code i of the tile at row i % CODES * LANES + i / CODES
  };
  using Logits = float[ROWS_OF_THREAD][CODES];

  static __device__ __forceinline__ float& logit(Logits& c, int i, int code) { return c[i][code]; }
  static __device__ __forceinline__ int row_of(int i) {
    return i * (ROWS / ROWS_OF_THREAD) + threadIdx.x / LANES;
  }
  static __device__ __forceinline__ int lane_of_row() { return threadIdx.x % LANES; }

  static __device__ void fetch(const Head<float>& head, int64_t first, Shared& room, int stage,
                               const TileCursor& at) {
    const int piece = threadIdx.x % PIECES, d = at.piece * DIMS + piece * 4;
    for (int i = threadIdx.x / PIECES; i < ROWS + TILE; i += THREADS / PIECES) {
      if (i < ROWS) {
        copy_piece(&room.h[stage][i][piece * 4], head.row(first + i), first + i < head.R, d, head.D,
                   head.packed);
      } else {
        const int place = i - ROWS, group = at.stretch * LANES + place % LANES;
        const int k = (group * head.parts + at.part) * CODES + place / LANES;
        copy_piece(&room.weight[stage][place][piece * 4], head.code(k), k < head.K, d, head.D,
                   head.packed);
      }
    }
  }

  static __device__ __forceinline__ void begin_with_bias(Logits& c, const Head<float>& head,
                                                         const TileCursor& at) {
    const int group = at.stretch * LANES + lane_of_row();
#pragma unroll
    for (int j = 0; j < CODES; ++j) {
      const float b = head.bias_of((group * head.parts + at.part) * CODES + j);
#pragma unroll
      for (int i = 0; i < ROWS_OF_THREAD; ++i) c[i][j] = b;
    }
  }

  static __device__ __forceinline__ void multiply(Logits& c, const float (*h)[PITCH],
                                                  const float (*weight)[PITCH]) {
#pragma unroll 2
    for (int d = 0; d < DIMS; d += 4) {
      float4 w[CODES];
#pragma unroll
      for (int j = 0; j < CODES; ++j) w[j] = *(const float4*)&weight[j * LANES + lane_of_row()][d];
#pragma unroll
      for (int i = 0; i < ROWS_OF_THREAD; ++i) {
        const float4 x = *(const float4*)&h[row_of(i)][d];
#pragma unroll
        for (int j = 0; j < CODES; ++j)
          c[i][j] =
              fmaf(x.w, w[j].w, fmaf(x.z, w[j].z, fmaf(x.y, w[j].y, fmaf(x.x, w[j].x, c[i][j]))));
      }
    }
  }

  template <typename Take>
  static __device__ __forceinline__ void each(const Head<float>& head, int64_t first, Shared& room,
                                              const Take& take) {
    const int n_pieces = max(1, (int)ceil_div(head.D, DIMS));
    const int n = n_pieces * head.parts * (int)ceil_div(head.K, TILE * head.parts);
    Logits c;
    TileCursor to, at;
    fetch(head, first, room, 0, to);
    for (int i = 0; i < n; ++i, at.next(n_pieces, head.parts)) {
      end_copies();
      wait_for_copies<0>();
      __syncthreads();
      to.next(n_pieces, head.parts);
      if (i + 1 < n) fetch(head, first, room, (i + 1) % STAGES, to);
      if (at.piece == 0) begin_with_bias(c, head, at);
      multiply(c, room.h[i % STAGES], room.weight[i % STAGES]);
      if (at.piece == n_pieces - 1) take(at.stretch * LANES + lane_of_row(), at.part, c);
    }
    __syncthreads();
  }
};

}  // namespace tsgen::cuda
