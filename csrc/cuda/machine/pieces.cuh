// Rows of a matrix in pieces of 16 bytes, zeros behind their ends: to registers or shared memory.
#pragma once

#include <initializer_list>

#include "cuda/machine/matrix.cuh"

namespace tsgen::cuda {

template <typename T>
constexpr int PACK = 16 / sizeof(T);  // numbers of a piece

// Whether rows of D numbers are pieces, all of them aligned.
template <typename T>
bool in_pieces(int64_t D, std::initializer_list<const void*> matrices) {
  uintptr_t all = 0;
  for (const void* at : matrices) all |= (uintptr_t)at;
  return D % PACK<T> == 0 && all % 16 == 0;
}

// Numbers d to d + PACK of a row of D, if there is such a row.
template <typename T>
__device__ __forceinline__ Pack<T, PACK<T>> load_piece(const T* row, bool there, int d, int D,
                                                       bool packed) {
  Pack<T, PACK<T>> piece = {};
  if (packed) {
    if (there && d < D) piece = *(const Pack<T, PACK<T>>*)(row + d);
  } else {
#pragma unroll
    for (int i = 0; i < PACK<T>; ++i)
      if (there && d + i < D) piece.at[i] = row[d + i];
  }
  return piece;
}

// The same to shared memory, as copy_16: wait_for_copies and a barrier before it is read.
template <typename T>
__device__ __forceinline__ void copy_piece(T* shared, const T* row, bool there, int d, int D,
                                           bool packed) {
  if (packed)
    copy_16(shared, row + d, there && d < D);
  else
    *(Pack<T, PACK<T>>*)shared = load_piece(row, there, d, D, false);
}

// Of 16-bit numbers, as fragments of tensor cores take them: products with dims in another order,
// the same for both matrices. From 32 dims a lane has 8 next to each other, lane % 4 times 8 on:
// x and y for the first 16, z and w for the next.
template <typename T>
__device__ __forceinline__ uint4 load_words(const T* row, bool there, int d, int D, bool packed) {
  d += threadIdx.x % 4 * 8;
  uint4 words = {0, 0, 0, 0};
  if (packed) {  // not by pieces, which would be taken apart and put together again
    if (there && d < D) words = *(const uint4*)(row + d);
  } else {
    const auto piece = load_piece(row, there, d, D, false);
    memcpy(&words, &piece, sizeof words);
  }
  return words;
}

}  // namespace tsgen::cuda
