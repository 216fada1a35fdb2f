// 16 rows of a warp and other rows, all in shared memory: the products that attention is made of.
//
//     scores = own rowsᵀ    (16, n)        sums += scores rows    (16, DIM)
//
// On tensor cores, where scores are stored as T before the second product (registers that held its
// result hold a factor: Dao 2023), or by float's FMA in the order of the rows.
#pragma once

#include "cuda/machine/functions.cuh"
#include "cuda/machine/pieces.cuh"
#include "cuda/machine/reduce.cuh"

namespace tsgen::cuda {

constexpr int CHUNK = 32;        // rows that those of a warp meet at once; at the end, 16
constexpr int TILE = 16;         // rows of a warp
constexpr float LEAST = -1e30f;  // a finite bound, so that a row without a key is 0

// Rows in shared memory lie in pieces of 16 bytes, a row's permuted: the same one of eight rows, or
// all of one row, are in different banks.
template <int DIM, typename T>
__device__ __forceinline__ int place(int row, int i) {
  constexpr int n = DIM / PACK<T>, rows_a_line = n < 8 ? 8 / n : 1;
  return row * DIM + (i ^ (row / rows_a_line & ((n < 8 ? n : 8) - 1))) * PACK<T>;
}
template <int DIM, typename T>
__device__ __forceinline__ T* piece(T* rows, int row, int i) {
  return rows + place<DIM, std::remove_const_t<T>>(row, i);
}

__device__ __forceinline__ int lane() { return threadIdx.x % WARP; }

// x; what is computed from it is computed here, not held in registers from before a loop.
__device__ __forceinline__ int anew(int x) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(x));
#endif
  return x;
}

// Which rows and columns of a product a lane has: with T as FragmentC, with float 4 x n / 8.
template <typename T>
struct Lanes {
  static constexpr int ROWS = 2, ACROSS = 4;
  static __device__ __forceinline__ int row(int r, int at = lane()) { return at / 4 + 8 * r; }
  static __device__ __forceinline__ int column(int i, int at = lane()) {
    return i / 2 * 8 + at % 4 * 2 + i % 2;
  }
};
template <>
struct Lanes<float> {
  static constexpr int ROWS = 4, ACROSS = 8;
  static __device__ __forceinline__ int row(int r, int at = lane()) { return at / 8 + 4 * r; }
  static __device__ __forceinline__ int column(int i, int at = lane()) { return at % 8 + 8 * i; }
};

template <typename T, int n>
struct Scores {
  float at[Lanes<T>::ROWS][n / Lanes<T>::ACROSS];
};

// Of float: a lane's numbers are the pieces lane % 8, + 8, ... of a row.
template <typename T, int DIM>
struct Sums {
  float at[Lanes<T>::ROWS][DIM / Lanes<T>::ACROSS] = {};
};

// Where a lane's row for load_matrices begins, of 16 rows and columns: as a factor A, or transposed
// as B; and as B. 16 columns on is this ^ 16, 16 rows on this + 16 DIM.
template <int DIM, typename T>
__device__ __forceinline__ int place_a() {
  return place<DIM, T>(lane() % 16, lane() / 16);
}
template <int DIM, typename T>
__device__ __forceinline__ int place_b() {
  return place<DIM, T>(lane() % 8 + lane() / 16 * 8, lane() / 8 % 2);
}

// The rows of a warp as a first factor.
template <typename T, int DIM>
struct Own {
  FragmentA part[DIM / 16];
  __device__ __forceinline__ explicit Own(const T* rows) {
#pragma unroll
    for (int i = 0; i < DIM / 16; ++i)
      load_matrices<false>(part[i].word, rows + (place_a<DIM, T>() ^ 16 * i));
  }
};
template <int DIM>
struct Own<float, DIM> {
  const float* rows;
  __device__ __forceinline__ explicit Own(const float* rows) : rows(rows) {}
};

// scores = own rowsᵀ
template <typename T, int DIM, int n>
__device__ __forceinline__ void multiply(Scores<T, n>& scores, const Own<T, DIM>& own,
                                         const T* rows) {
#pragma unroll
  for (int j = 0; j < n / 16; ++j) {
    FragmentC c[2] = {};
#pragma unroll
    for (int i = 0; i < DIM / 16; ++i) {
      uint32_t word[4];
      load_matrices<false>(word, rows + (place_b<DIM, T>() ^ 16 * i) + 16 * j * DIM);
      multiply_add<T>(c[0], own.part[i], {word[0], word[1]});
      multiply_add<T>(c[1], own.part[i], {word[2], word[3]});
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
      scores.at[i / 2 % 2][4 * j + i / 4 * 2 + i % 2] = c[i / 4].at[i % 4];
  }
}

template <int DIM, int n>
__device__ __forceinline__ void multiply(Scores<float, n>& scores, const Own<float, DIM>& own,
                                         const float* rows) {
  using At = Lanes<float>;
#pragma unroll
  for (auto& row : scores.at)
#pragma unroll
    for (float& x : row) x = 0;
#pragma unroll 2
  for (int i = 0; i < DIM / 4; ++i) {
    Pack<float, 4> a[At::ROWS], b[n / 8];
#pragma unroll
    for (int r = 0; r < At::ROWS; ++r)
      a[r] = *(const Pack<float, 4>*)piece<DIM>(own.rows, At::row(r), i);
#pragma unroll
    for (int c = 0; c < n / 8; ++c)
      b[c] = *(const Pack<float, 4>*)piece<DIM>(rows, At::column(c), i);
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int r = 0; r < At::ROWS; ++r)
#pragma unroll
        for (int c = 0; c < n / 8; ++c)
          scores.at[r][c] = fmaf(a[r].at[k], b[c].at[k], scores.at[r][c]);
  }
}

// sums += scores rows. room: 16 CHUNK numbers of the warp's own, for float.
template <typename T, int DIM, int n>
__device__ __forceinline__ void add_product(Sums<T, DIM>& sums, const Scores<T, n>& scores,
                                            const T* rows, float*) {
  const auto& s = scores.at;
#pragma unroll
  for (int j = 0; j < n / 16; ++j) {
    FragmentA a;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a.word[i] = pack<T>(s[i % 2][4 * j + i / 2 * 2], s[i % 2][4 * j + i / 2 * 2 + 1]);
#pragma unroll
    for (int d = 0; d < DIM / 16; ++d) {
      uint32_t word[4];
      load_matrices<true>(word, rows + (place_a<DIM, T>() ^ 16 * d) + 16 * j * DIM);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float (&at)[2][DIM / 4] = sums.at;
        const int first = 4 * d + 2 * half;
        FragmentC c{{at[0][first], at[0][first + 1], at[1][first], at[1][first + 1]}};
        multiply_add<T>(c, a, {word[2 * half], word[2 * half + 1]});
#pragma unroll
        for (int i = 0; i < 4; ++i) at[i / 2][first + i % 2] = c.at[i];
      }
    }
  }
}

template <int DIM, int n>
__device__ __forceinline__ void add_product(Sums<float, DIM>& sums, const Scores<float, n>& scores,
                                            const float* rows, float* room) {
  using At = Lanes<float>;
  // eight columns of four rows are written at once, and a piece of four rows read: other banks
  const auto at = [&](int row, int column) {
    return room + row * CHUNK + ((column / 4 ^ row % 4 * 2) * 4 + column % 4);
  };
#pragma unroll
  for (int r = 0; r < At::ROWS; ++r)
#pragma unroll
    for (int c = 0; c < n / 8; ++c) *at(At::row(r), At::column(c)) = scores.at[r][c];
  __syncwarp();
#pragma unroll 2
  for (int j = 0; j < n; j += 4) {
    Pack<float, 4> weight[At::ROWS], row[DIM / 32];
#pragma unroll
    for (int r = 0; r < At::ROWS; ++r) weight[r] = *(const Pack<float, 4>*)at(At::row(r), j);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int e = 0; e < DIM / 32; ++e)
        row[e] = *(const Pack<float, 4>*)piece<DIM>(rows, j + k, lane() % 8 + 8 * e);
#pragma unroll
      for (int r = 0; r < At::ROWS; ++r)
#pragma unroll
        for (int e = 0; e < DIM / 8; ++e)
          sums.at[r][e] = fmaf(weight[r].at[k], row[e / 4].at[e % 4], sums.at[r][e]);
    }
  }
  __syncwarp();
}

// The 16 rows of a warp, stored as U.
template <typename U, typename T, int DIM>
__device__ __forceinline__ void put(U* rows, const Sums<T, DIM>& sums) {
  const int at = anew(lane());
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int e = 0; e < DIM / 4; e += 2) {
      const int d = Lanes<T>::column(e, at);
      *(Pack<U, 2>*)(piece<DIM>(rows, Lanes<T>::row(r, at), d / PACK<U>) + d % PACK<U>) = {
          store<U>(sums.at[r][e]), store<U>(sums.at[r][e + 1])};
    }
}

template <typename U, int DIM>
__device__ __forceinline__ void put(float* rows, const Sums<float, DIM>& sums) {
  const int at = anew(lane());
#pragma unroll
  for (int r = 0; r < Lanes<float>::ROWS; ++r)
#pragma unroll
    for (int e = 0; e < DIM / 8; e += 4)
      *(Pack<float, 4>*)piece<DIM>(rows, Lanes<float>::row(r, at), at % 8 + 2 * e) = {
          {sums.at[r][e], sums.at[r][e + 1], sums.at[r][e + 2], sums.at[r][e + 3]}};
}

// Columns from `end` on become -inf.
template <typename T, int n>
__device__ __forceinline__ void hide(Scores<T, n>& scores, int end) {
#pragma unroll
  for (int i = 0; i < n / Lanes<T>::ACROSS; ++i)
    if (Lanes<T>::column(i) >= end)
#pragma unroll
      for (int r = 0; r < Lanes<T>::ROWS; ++r) scores.at[r][i] = -INFINITY;
}

// The largest score of a row so far, times `unit`.
template <typename T, int n>
__device__ __forceinline__ float larger(float most, const Scores<T, n>& scores, int r, float unit) {
  float best = scores.at[r][0];
#pragma unroll
  for (int i = 1; i < n / Lanes<T>::ACROSS; ++i) best = fmaxf(best, scores.at[r][i]);
  best = over_lanes<Lanes<T>::ACROSS>(best, [](float a, float b) { return fmaxf(a, b); });
  return fmaxf(most, best * unit);
}

}  // namespace tsgen::cuda
