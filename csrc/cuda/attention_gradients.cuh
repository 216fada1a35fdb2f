// What the kernels of attention's gradients share: products of a warp, and where its results go.
//
//     dv = pᵀ g    ds = p (g vᵀ - mean of it under p)    dq̂ = ds k̂ / √D    dk̂ = dsᵀ q̂ / √D
//
// Everything is computed again, and nothing is added atomically. A warp has 16 queries and meets
// all keys, twice: for the sums that make weights of scores, then for dq. Or it has 16 keys and
// meets all queries.
#pragma once

#include "cuda/attention.cuh"

namespace tsgen::cuda {

// What a query's scores need to become weights, and gradients.
struct alignas(8) Weighing {
  float log_total;  // log2 of the sum of exponentials
  float mean;       // of the gradients by weights
};

template <typename T>
struct Outputs {
  Strided<const T> grad;
  T *dq, *dk, *dv;                     // (B, M, H, D), (B, N, H, D)
  Weighing* weighing;                  // (B, H, M), unless one kernel does all
  float *null_sums, *q_sums, *k_sums;  // (B, 2, H, D), (blocks, D)
};

struct Plan {
  bool whole;                    // queries and keys of a sequence are in shared memory
  int sequences, warps;          // of a block; of a sequence
  int query_blocks, key_blocks;  // of a sequence
  int stage;                     // rows that are loaded at once, unless all are
};

// Of a warp's queries, the sums that `weighing` makes them from.
template <typename T>
struct Statistics {
  static constexpr int ROWS = Lanes<T>::ROWS;
  float most[ROWS], total[ROWS], mean[ROWS];

  __device__ __forceinline__ Statistics() {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) most[r] = LEAST, total[r] = mean[r] = 0;
  }

  template <int DIM, int n>
  __device__ __forceinline__ void meet(const Own<T, DIM>& q, const Own<T, DIM>& g, const T* k,
                                       const T* v, int end, float scale) {
    Scores<T, n> s, t;
    multiply(s, q, k);
    multiply(t, g, v);
    if (end < n) hide(s, end);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const float higher = larger(most[r], s, r, scale), shrink = exp2_fast(most[r] - higher);
      most[r] = higher, total[r] *= shrink, mean[r] *= shrink;
#pragma unroll
      for (int i = 0; i < n / Lanes<T>::ACROSS; ++i) {
        const float p = exp2_fast(fmaf(s.at[r][i], scale, -higher));
        total[r] += p, mean[r] = fmaf(p, t.at[r][i], mean[r]);
      }
    }
  }

  __device__ __forceinline__ Weighing weighing(int r) const {
    const float sum = over_lanes<Lanes<T>::ACROSS>(total[r], Sum());
    const float average =
        __fdividef(over_lanes<Lanes<T>::ACROSS>(mean[r], Sum()), sum == 0 ? 1 : sum);
    // without a key every weight is 0
    return {sum == 0 ? INFINITY : most[r] + log2f(sum), average};
  }
};

// do_it(rows of a chunk, its first row), in chunks of 32 and then of 16.
template <typename F>
__device__ __forceinline__ void in_chunks(int n, const F& do_it) {
  int j = 0;
  for (; j + CHUNK <= n; j += CHUNK) do_it(std::integral_constant<int, CHUNK>(), j);
  for (; j < n; j += 16) do_it(std::integral_constant<int, 16>(), j);
}

// dq += ds k
template <int n, typename T, int DIM>
__device__ __forceinline__ void add_keys(Sums<T, DIM>& dq, const Own<T, DIM>& q,
                                         const Own<T, DIM>& g, const T* k, const T* v, int end,
                                         const Weighing (&of)[Lanes<T>::ROWS], const Inputs<T>& in,
                                         float* room) {
  Scores<T, n> s, t;
  multiply(s, q, k);
  multiply(t, g, v);
  if (end < n) hide(s, end);
#pragma unroll
  for (int r = 0; r < Lanes<T>::ROWS; ++r)
#pragma unroll
    for (int i = 0; i < n / Lanes<T>::ACROSS; ++i) {
      const float p = exp2_fast(fmaf(s.at[r][i], in.to_log2(), -of[r].log_total));
      s.at[r][i] = p * (t.at[r][i] - of[r].mean) * in.scale;
    }
  add_product(dq, s, k, room);
}

// dk += dsᵀ q and dv += pᵀ g. Queries behind the last are zeros, and count for nothing.
template <int n, typename T, int DIM>
__device__ __forceinline__ void add_queries(Sums<T, DIM>& dk, Sums<T, DIM>& dv, const T* k,
                                            const T* v, const T* q, const T* g, const Weighing* of,
                                            const Inputs<T>& in, float* room) {
  Scores<T, n> s, t;
  multiply(s, Own<T, DIM>(k), q);  // loaded again: registers are full
  multiply(t, Own<T, DIM>(v), g);
#pragma unroll
  for (int i = 0; i < n / Lanes<T>::ACROSS; ++i) {
    const Weighing query = of[Lanes<T>::column(i)];
#pragma unroll
    for (int r = 0; r < Lanes<T>::ROWS; ++r) {
      s.at[r][i] = exp2_fast(fmaf(s.at[r][i], in.to_log2(), -query.log_total));
      t.at[r][i] = s.at[r][i] * (t.at[r][i] - query.mean) * in.scale;
    }
  }
  add_product(dv, s, g, room);
  add_product(dk, t, q, room);
}

// Where the gradients of rows go: to `at`, as many as the tensor has, that of the null row to
// `null`; what the gradient of `scale` sums up is added to scale_sums (DIM). Without scale the rows
// are not normalised.
template <typename T>
struct Target {
  T* at;
  int64_t stride;
  int n;
  float* null;
  const float* scale;
  float* scale_sums;
};

// A piece of row `row` that cannot be read at once, or is of the null row; 0 behind D and where
// there is no row. slot(e): memory for each number.
template <typename T, typename Slot>
__device__ __forceinline__ void read_slowly(float (&x)[PACK<T>], const HeadRows<T>& rows, int row,
                                            int d, int D, const Slot& slot) {
  const T* const at = rows.at + row * rows.stride + d;
  const bool null = row == rows.n && rows.null;
#pragma unroll 1
  for (int e = 0; e < PACK<T>; ++e)
    *slot(e) = d + e >= D     ? 0
               : null         ? load(store<T>(rows.null[d + e]))
               : row < rows.n ? load(at[e])
                              : 0;
#pragma unroll
  for (int e = 0; e < PACK<T>; ++e) x[e] = *slot(e);
}

// To where it belongs: to.null if it is the null row's.
template <typename T, typename Slot>
__device__ __forceinline__ void write_piece(const Target<T>& to, const float (&y)[PACK<T>], int row,
                                            bool null, int d, int D, bool packed,
                                            const Slot& slot) {
  T* const at = to.at + row * to.stride + d;
  if (packed && row < to.n && d < D && !null) {
    Pack<T, PACK<T>> out;
#pragma unroll
    for (int e = 0; e < PACK<T>; ++e) out.at[e] = store<T>(y[e]);
    *(Pack<T, PACK<T>>*)at = out;
    return;
  }
#pragma unroll
  for (int e = 0; e < PACK<T>; ++e) *slot(e) = y[e];
#pragma unroll 1
  for (int e = 0; e < PACK<T> && d + e < D; ++e) {
    if (null) to.null[d + e] = *slot(e);
    if (row < to.n) at[e] = store<T>(null ? 0 : *slot(e));
  }
}

// y, a piece of the gradient by scale * x/|x|, becomes that by x; its part of scale's is added to
// sums. n_left: numbers before D. LANES lanes have a row.
template <int LANES, int n>
__device__ __forceinline__ void through_norm(float (&y)[n], float (&x)[n], float (&sums)[n],
                                             const float* scale, int n_left) {
  float square = 0, along = 0;
#pragma unroll
  for (float e : x) square += e * e;
  square = over_lanes<LANES>(square, Sum());
  const float inverse = rsqrtf(fmaxf(square, SMALLEST));
#pragma unroll
  for (int e = 0; e < n; ++e) {
    x[e] *= inverse;
    sums[e] += y[e] * x[e];
    y[e] *= e < n_left ? scale[e] : 0;
    along += y[e] * x[e];
  }
  along = over_lanes<LANES>(along, Sum());
  if (square <= SMALLEST) along = 0;  // below the smallest norm it is a constant
#pragma unroll
  for (int e = 0; e < n; ++e) y[e] = (y[e] - x[e] * along) * inverse;
}

// dy: 16 rows of gradients by scale * x/|x|, from row `first` on. It is overwritten.
template <int DIM, typename T>
__device__ __forceinline__ void finish_rows(float* dy, const HeadRows<T>& rows, int first,
                                            const Target<T>& to, int D, bool packed) {
  constexpr int PIECES = DIM / PACK<T>, ROWS = WARP / PIECES, BATCH = 2;
  const int at = anew(lane());
  const int d = at % PIECES * PACK<T>;
  float sums[PACK<T>] = {};
#pragma unroll 1
  for (int batch = at / PIECES; batch < TILE; batch += BATCH * ROWS) {
    Pack<T, PACK<T>> in[BATCH];  // asked for together
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      const int row = first + batch + j * ROWS;
      if (to.scale && packed && row < rows.n && d < D)
        in[j] = *(const Pack<T, PACK<T>>*)(rows.at + row * rows.stride + d);
    }
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      const int i = batch + j * ROWS, row = first + i;
      const bool null = row == rows.n && rows.null;
      const auto slot = [&](int e) { return piece<DIM>(dy, i, (d + e) / 4) + e % 4; };
      float y[PACK<T>];
#pragma unroll
      for (int e = 0; e < PACK<T>; ++e) y[e] = row < rows.n || null ? *slot(e) : 0;
      if (to.scale) {
        float x[PACK<T>];
        if (packed && row < rows.n && d < D)
#pragma unroll
          for (int e = 0; e < PACK<T>; ++e) x[e] = load(in[j].at[e]);
        else
          read_slowly(x, rows, row, d, D, slot);
        through_norm<PIECES>(y, x, sums, to.scale + d, D - d);
      }
      write_piece(to, y, row, null, d, D, packed, slot);
    }
  }
  if (!to.scale) return;
#pragma unroll
  for (int e = 0; e < PACK<T>; ++e) {
#pragma unroll
    for (int step = PIECES; step < WARP; step *= 2)
      sums[e] += __shfl_xor_sync(ALL_LANES, sums[e], step);
    if (at < PIECES) to.scale_sums[d + e] += sums[e];
  }
}

// The block's sums of gradients of a scale, from those of its warps.
template <int DIM>
__device__ __forceinline__ void write_scale_sums(const float* sums, float* to, int D) {
  const int n_warps = blockDim.x / WARP;
  for (int d = threadIdx.x; d < D; d += blockDim.x) {
    float sum = 0;
    for (int warp = 0; warp < n_warps; ++warp) sum += sums[warp * DIM + d];
    to[(int64_t)blockIdx.x * D + d] = sum;
  }
}

// The gradients of 16 queries, by way of `room` (16, DIM).
template <int DIM, typename T>
__device__ __forceinline__ void write_queries(const Sums<T, DIM>& dq, const AttentionHead& head,
                                              int first, float* room, float* q_sums,
                                              const Inputs<T>& in, const Outputs<T>& out) {
  put<float>(room, dq);
  __syncwarp();
  const int64_t at = ((int64_t)head.b * in.M * in.H + head.h) * in.D;
  const Target<T> to{out.dq + at, (int64_t)in.H * in.D, head.queries, nullptr, in.q_scale, q_sums};
  finish_rows<DIM>(room, head.q(in.q), first, to, in.D, in.packed);
  __syncwarp();
}

// And of 16 keys and values.
template <int DIM, typename T>
__device__ __forceinline__ void write_keys(const Sums<T, DIM>& dk, const Sums<T, DIM>& dv,
                                           const AttentionHead& head, int first, float* room,
                                           float* k_sums, const Inputs<T>& in,
                                           const Outputs<T>& out) {
  const int64_t stride = (int64_t)in.H * in.D, at = ((int64_t)head.b * in.N * in.H + head.h) * in.D;
  float* const null = out.null_sums + (2 * (int64_t)head.b * in.H + head.h) * in.D;
  const int n = head.b < in.B ? in.N : 0;
  put<float>(room, dv);
  __syncwarp();
  Target<T> to{out.dv + at, stride, n, null + stride, nullptr, nullptr};
  finish_rows<DIM>(room, head.v(in), first, to, in.D, in.packed);
  __syncwarp();
  put<float>(room, dk);
  __syncwarp();
  to = {out.dk + at, stride, n, null, in.k_scale, k_sums};
  finish_rows<DIM>(room, head.k(in), first, to, in.D, in.packed);
  __syncwarp();
}

// A row in shared memory, in floats.
template <typename T, int DIM>
constexpr int ROW = DIM * sizeof(T) / sizeof(float);

// _attention_backward_long.cu: two kernels, the first of which leaves its sums to the other.
template <typename T, int DIM>
void start_long(const Launch& on, const Inputs<T>& in, const Outputs<T>& out, const Plan& plan);

}  // namespace tsgen::cuda
