// What both directions of attention share: what a block is given, and how rows come to it.
#pragma once

#include "cuda/attention_tiles.cuh"
#include "cuda/machine/divide.cuh"

namespace tsgen::cuda {

constexpr float SMALLEST = 1e-24f;  // square of a norm; EPS² of tsgen/ops/attention.py

template <typename T>
struct Strided {  // (B, H, n, D), rows of D contiguous
  T* at;
  int64_t b, h, n;
};

template <typename T>
struct Inputs {
  Strided<const T> q, k, v;
  const float *null_kv, *q_scale, *k_scale;
  const int64_t* lengths;
  int B, H, M, N, D;
  Divisor by_heads;
  bool packed;  // rows may be read and written 16 bytes at a time
  float scale;  // 1 / sqrt(D)
  __device__ __forceinline__ float to_log2() const { return scale * LOG2_E; }
};

// Rows of one head of one sequence, and perhaps one more behind the n.
template <typename T>
struct HeadRows {
  const T* at;
  int64_t stride;
  int n;
  const float* null;
};

// One head of one sequence; nothing of one behind the last.
struct AttentionHead {
  int b, h, queries, used;  // used: keys, but for the null one
  bool null;

  template <typename T>
  __device__ __forceinline__ AttentionHead(const Inputs<T>& in, int i)
      : b(i / in.by_heads), h(i - b * in.H) {
    const bool there = b < in.B;
    queries = there ? in.M : 0, used = there ? in.N : 0, null = there && in.null_kv;
    if (there && in.lengths) used = (int)max((int64_t)0, min(in.lengths[b], (int64_t)used));
  }
  __device__ __forceinline__ int keys() const { return used + null; }

  template <typename T>
  __device__ __forceinline__ HeadRows<T> rows_of(const Strided<const T>& t, int n) const {
    return {t.at + b * t.b + h * t.h, t.n, n, nullptr};
  }
  // of queries, or of what has the shape of queries
  template <typename T>
  __device__ __forceinline__ HeadRows<T> q(const Strided<const T>& t) const {
    return rows_of(t, queries);
  }
  template <typename T>
  __device__ __forceinline__ HeadRows<T> k(const Inputs<T>& in) const {
    HeadRows<T> rows = rows_of(in.k, used);
    if (null) rows.null = in.null_kv + h * in.D;
    return rows;
  }
  template <typename T>
  __device__ __forceinline__ HeadRows<T> v(const Inputs<T>& in) const {
    HeadRows<T> rows = rows_of(in.v, used);
    if (null) rows.null = in.null_kv + (in.H + h) * in.D;
    return rows;
  }
};

// The warps of a block that have the same sequence, as seen by one of their threads.
struct Team {
  int thread, n_threads;
};

// n rows, a multiple of 16, from row `first` on; zeros where there is none, and behind D.
template <int DIM, typename T>
__device__ __forceinline__ void load_rows(T* to, const HeadRows<T>& from, int first, int n, int D,
                                          bool packed, Team team) {
  constexpr int PIECES = DIM / PACK<T>;
  const int i = team.thread % PIECES, d = i * PACK<T>;
  for (int row = team.thread / PIECES; row < n; row += team.n_threads / PIECES) {
    T* const at = piece<DIM>(to, row, i);
    const int source = first + row;
    const bool there = source < from.n, null = source == from.n && from.null;
    const T* const x = from.at + source * from.stride + d;
    if (packed && !null) {
      copy_16(at, x, there && d < D);
      continue;
    }
#pragma unroll 1
    for (int e = 0; e < PACK<T>; ++e)
      at[e] = d + e >= D ? store<T>(0)
              : null     ? store<T>(from.null[d + e])
              : there    ? x[e]
                         : store<T>(0);
  }
}

// scale * x/|x| for the rows that this thread has loaded its pieces of, with the same n.
template <int DIM, typename T>
__device__ __forceinline__ void normalise(T* rows, int n, const float* scale, int D, Team team) {
  constexpr int PIECES = DIM / PACK<T>, BATCH = 4;  // rows at a time
  const int i = team.thread % PIECES;
  float weight[PACK<T>];
#pragma unroll
  for (int e = 0; e < PACK<T>; ++e) {
    const int d = i * PACK<T> + e;
    weight[e] = d < D ? scale[d] : 0;
  }
  const int step = team.n_threads / PIECES;
  for (int first = team.thread / PIECES; first < n; first += BATCH * step) {
    Pack<T, PACK<T>> x[BATCH];
    float square[BATCH] = {};
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      x[j] = *(const Pack<T, PACK<T>>*)piece<DIM>(rows,
                                                  first + (first + j * step < n ? j * step : 0), i);
#pragma unroll
      for (T e : x[j].at) square[j] += load(e) * load(e);
      square[j] = over_lanes<PIECES>(square[j], Sum());
    }
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      const float inverse = rsqrtf(fmaxf(square[j], SMALLEST));
#pragma unroll
      for (int e = 0; e < PACK<T>; ++e)
        x[j].at[e] = store<T>(load(x[j].at[e]) * inverse * weight[e]);
      if (first + j * step < n) *(Pack<T, PACK<T>>*)piece<DIM>(rows, first + j * step, i) = x[j];
    }
  }
}

// load(i) for all stages that n rows make, at least one, each ahead of use(i - 1). `use` has a
// barrier before it reads what others have loaded.
template <typename Load, typename Use>
__device__ __forceinline__ void in_stages(int n_rows, int stage, const Load& load, const Use& use) {
  const int n = max(1, (n_rows + stage - 1) / stage);
  for (int next = 0; next <= n; ++next) {
    if (next < n) load(next);
    end_copies();
    if (next == 0) continue;
    wait_for_copies<1>();
    use(next - 1);
    __syncthreads();  // before the next stage but one takes its place
  }
  wait_for_copies<0>();  // a group of none
}

// The first n_left numbers of a piece.
template <typename T>
__device__ __forceinline__ void store_piece(T* to, const T* at, int n_left, bool packed) {
  if (!packed)
#pragma unroll 1
    for (int e = 0; e < PACK<T> && e < n_left; ++e) to[e] = at[e];
  else if (n_left > 0)
    *(Pack<T, PACK<T>>*)to = *(const Pack<T, PACK<T>>*)at;
}

inline bool aligned(int64_t n_bytes) { return n_bytes % 16 == 0; }

// Whether all its rows begin where 16 bytes can be moved.
template <typename T>
bool fits_pieces(const Strided<const T>& t) {
  const int64_t size = sizeof(T);
  return aligned((int64_t)t.at) && aligned(t.b * size) && aligned(t.h * size) &&
         aligned(t.n * size);
}

template <typename T>
Inputs<T> inputs_of(const Strided<const T>& q, const Strided<const T>& k, const Strided<const T>& v,
                    const float* null_kv, const float* q_scale, const float* k_scale,
                    const int64_t* lengths, int64_t B, int64_t H, int64_t M, int64_t N, int64_t D) {
  if (B * H > MOST_BLOCKS / 2) throw std::runtime_error("CUDA: attention has at most 2^30 heads");
  const bool packed =
      fits_pieces(q) && fits_pieces(k) && fits_pieces(v) && aligned(D * (int64_t)sizeof(T));
  const float scale = 1 / std::sqrt((float)D);
  return {q,      k,      v,      null_kv, q_scale,    k_scale, lengths, (int)B,
          (int)H, (int)M, (int)N, (int)D,  Divisor(H), packed,  scale};
}

__host__ __device__ constexpr int up_to_16(int64_t n) { return (int)ceil_div(n, TILE) * TILE; }

// do_it(std::integral_constant<int, DIM>()) with the dims that rows are padded to.
template <typename F>
void by_dim(int64_t D, const F& do_it) {
  if (D > 64) throw std::runtime_error("CUDA: attention has at most 64 dims of a head");
  if (D <= 32)
    do_it(std::integral_constant<int, 32>());
  else
    do_it(std::integral_constant<int, 64>());
}

}  // namespace tsgen::cuda
