// What both searches of nearest_code share: codes as they read them, and what makes a result sure.
//
// The nearest code is the one of the least distance as add_squares() computes it, in float32; a tie
// goes to the lowest. A sweep ranks x·c - |c|²/2 instead, groups of codes at a time, and looks at
// the distances of the best group alone. Where its own error or the other groups leave a doubt the
// row is put off to nearest_code_again_kernel, which computes every distance. So the result does
// not depend on how a sweep rounds, nor on other rows.
#pragma once

#include "cuda/machine/matrix.cuh"
#include "cuda/machine/reduce.cuh"

namespace tsgen::cuda {

constexpr int MOST_CODES = 128;          // of a tile of any sweep; K_pad is a multiple
constexpr float MOST = 0x1p120f;         // |x|² and |c|² up to which nothing overflows in a sweep
constexpr float LOST_BELOW = 0x1p-100f;  // more than what is lost below float's least number

template <typename T>
struct Codes {
  const Pack<T, 4>* fours;  // (ceil(D / 4), K_pad): NaN in codes that are never chosen
  const float* offset;      // (K_pad) by place: η |c|² - |c|²/2, -infinity in those
  const uint16_t* parts;    // (1 or 2, K_pad, D_pad) by place, for tensor cores
  int64_t K, D;
  int K_pad, D_pad = 0;
  float eta = 0;  // see is_sure()
};

template <typename T>
struct Rows {
  const T* x;   // (N, D)
  bool packed;  // whether they are fours of numbers, aligned
  int64_t N;
};

struct Found {
  int64_t* ids;      // (N)
  float* distance;   // (N)
  int64_t* put_off;  // (N), rows, in any order
  unsigned long long* n_put_off;
};

// What tensor cores multiply: a 16-bit number itself, a float as the sum of two. Two at once.
template <typename T>
struct Parts {
  using Type = T;
  static constexpr int n = 1;
  static __device__ __forceinline__ uint32_t of(T low, T high, int) {
    return (uint32_t)high.bits << 16 | low.bits;
  }
};
template <>
struct Parts<float> {
  using Type = BFloat16;
  static constexpr int n = 2;
  static __device__ __forceinline__ uint32_t of(float low, float high, int i) {
    const uint32_t word = pack<BFloat16>(low, high);
    if (i == 0) return word;
    return pack<BFloat16>(low - __uint_as_float(word << 16),
                          high - __uint_as_float(word & 0xffff0000u));
  }
};

// The numbers d to d + 3 of a row of D, zeros behind its end; d < D if it is packed.
template <typename T>
__device__ __forceinline__ Pack<T, 4> load_4(const T* row, int64_t d, int64_t D, bool packed) {
  if (packed) return *(const Pack<T, 4>*)(row + d);
  Pack<T, 4> four;
#pragma unroll
  for (int i = 0; i < 4; ++i) four.at[i] = d + i < D ? row[d + i] : store<T>(0);
  return four;
}

template <typename T>
__device__ __forceinline__ float add_squares(float sum, const Pack<T, 4>& x, const Pack<T, 4>& c) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float difference = load(x.at[i]) - load(c.at[i]);
    sum = fmaf(difference, difference, sum);
  }
  return sum;
}

template <typename T>
__device__ __forceinline__ float add_norm(float sum, const Pack<T, 4>& x) {
#pragma unroll
  for (int i = 0; i < 4; ++i) sum = fmaf(load(x.at[i]), load(x.at[i]), sum);
  return sum;
}

// A distance and whose it is, in the order of both. NaN is behind infinity.
__device__ __forceinline__ uint64_t key_of(float distance, int64_t k) {
  return (uint64_t)__float_as_uint(distance) << 32 | (uint32_t)k;
}
__device__ __forceinline__ float distance_of(uint64_t key) {
  return __uint_as_float((unsigned)(key >> 32));
}

// The best group of codes that a sweep has met, and the best score of the others.
struct Best {
  float score = -INFINITY, second = -INFINITY;
  int group = 0;

  __device__ __forceinline__ void offer(float top, int with) {
    second = max(second, min(score, top));
    if (top > score) group = with;
    score = max(score, top);
  }
};

// Whether no code of another group can be as near, or nearer. For each the sweep's score is at
// least x·c - |c|²/2 - η |x|²/2, and so |x - c|² >= (1 - η) |x|² - 2 second.
__device__ __forceinline__ bool is_sure(float nearest, float norm, float second, float eta,
                                        int64_t D) {
  const float rounding = (float)(D + 8) * 0x1p-23f;  // twice that of `nearest` and `norm`
  const float least = norm * (1 - eta - rounding) - 2 * second;
  return norm + nearest < MOST / 8 && fmaf(nearest, rounding, nearest) + LOST_BELOW < least;
}

__device__ __forceinline__ void settle(const Found& found, int64_t n, uint64_t key, bool sure) {
  if (sure)
    found.ids[n] = (uint32_t)key, found.distance[n] = distance_of(key);
  else
    found.put_off[atomicAdd(found.n_put_off, 1ull)] = n;
}

// Where code k lies among those for tensor cores: a thread has 2 neighbouring columns of each of
// their products, and has to meet `group` codes that follow each other.
__device__ __forceinline__ int64_t place_of_code(int64_t k, int group) {
  const int64_t i = k % (4 * group);
  return k - i + i % group / 2 * 8 + i / group * 2 + i % 2;
}

// And dim d of a code: of every `pass` products a thread has 4 numbers a step of A, and reads them
// side by side from memory. Pass 0: 8 dims in order, and behind them their second part.
__device__ __forceinline__ int64_t place_of_dim(int64_t d, int pass) {
  if (pass == 0) return d;
  const int64_t i = d % (16 * pass), lane = i / (4 * pass), j = i % (4 * pass);
  return d - i + j / 4 * 16 + j % 4 / 2 * 8 + lane * 2 + j % 2;
}

// Where the four numbers of such a step and lane begin in a row.
__device__ __forceinline__ int first_of_four(int step, int lane, int pass) {
  return 16 * pass * (step / pass) + 4 * (pass * lane + step % pass);
}

struct Packing {
  int group, pass;  // as above
  float eta;
};

// A warp packs one code.
template <typename T>
__global__ void __launch_bounds__(128)
    pack_codes_kernel(const T* codes, T* fours, float* offset, uint16_t* parts,
                      unsigned long long* n_put_off, int64_t K, int64_t D, int64_t K_pad,
                      int64_t D_pad, Packing how) {
  const int lane = threadIdx.x % WARP;
  const int64_t k = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP;
  const int64_t place = place_of_code(k, how.group);
  double norm = 0;  // so that a small x·c is not lost beside a large |c|²
  for (int64_t d = lane; d < D && k < K; d += WARP) {
    const double c = load(codes[k * D + d]);
    norm += c * c;
  }
  norm = over_lanes(norm, Sum());
  const bool usable = k < K && norm < 0x1p129;  // false for NaN
  const bool ranked = usable && norm <= MOST;   // others are so far that is_sure() rules them out
  const int64_t n_ranked = how.pass == 0 ? 8 : D_pad, next_part = how.pass == 0 ? 8 : K_pad * D_pad;
  for (int64_t d = lane; d < max(ceil_div(D, 4) * 4, n_ranked); d += WARP) {
    const T c = usable && d < D ? codes[k * D + d] : store<T>(0);
    if (d < ceil_div(D, 4) * 4) fours[(d / 4 * K_pad + k) * 4 + d % 4] = usable ? c : store<T>(NAN);
    for (int i = 0; i < Parts<T>::n && d < n_ranked; ++i)
      parts[i * next_part + place * D_pad + place_of_dim(d, how.pass)] =
          ranked ? (uint16_t)Parts<T>::of(c, c, i) : 0;
  }
  if (lane == 0) offset[place] = ranked ? (float)((how.eta - 0.5) * norm) : -INFINITY;
  if (k == 0 && lane == 0) *n_put_off = 0;
}

// Every distance of the rows that were put off: a thread has some codes, a block some rows.
constexpr int ALL_THREADS = 256, ALL_ROWS = 8, ALL_BLOCKS = 1024;

template <typename T>
__device__ bool finite(const T* row, int64_t D) {
  for (int64_t d = 0; d < D; ++d)
    if (!(fabsf(load(row[d])) < INFINITY)) return false;
  return true;
}

template <typename T>
__global__ void __launch_bounds__(ALL_THREADS)
    nearest_code_again_kernel(Rows<T> rows, Codes<T> codes, Found found) {
  __shared__ uint64_t room[ALL_THREADS / WARP];
  const int64_t D = codes.D, n_rows = (int64_t)*found.n_put_off;
  const int n_fours = (int)ceil_div(D, 4);
  for (int64_t first = (int64_t)blockIdx.x * ALL_ROWS; first < n_rows;
       first += (int64_t)gridDim.x * ALL_ROWS) {
    const T* row[ALL_ROWS];
    uint64_t best[ALL_ROWS];
#pragma unroll
    for (int r = 0; r < ALL_ROWS; ++r) {
      row[r] = rows.x + found.put_off[min(first + r, n_rows - 1)] * D;
      best[r] = key_of(NAN, 0);
    }
    for (int64_t k = threadIdx.x; k < codes.K; k += ALL_THREADS) {
      float squares[ALL_ROWS] = {};
#pragma unroll 4
      for (int b = 0; b < n_fours; ++b) {
        const Pack<T, 4> c = codes.fours[(int64_t)b * codes.K_pad + k];
#pragma unroll
        for (int r = 0; r < ALL_ROWS; ++r)
          squares[r] = add_squares(squares[r], load_4(row[r], 4 * b, D, rows.packed), c);
      }
#pragma unroll
      for (int r = 0; r < ALL_ROWS; ++r) best[r] = Min()(best[r], key_of(squares[r], k));
    }
#pragma unroll
    for (int r = 0; r < ALL_ROWS; ++r) {
      const uint64_t key = over_block(best[r], room, Min());
      if (threadIdx.x != 0 || first + r >= n_rows) continue;
      const float distance = distance_of(key);  // NaN if no code is usable
      const bool good = distance < INFINITY || finite(row[r], D);
      const int64_t n = found.put_off[first + r];
      found.ids[n] = good && distance == distance ? (uint32_t)key : 0;
      found.distance[n] = !good ? NAN : distance == distance ? distance : INFINITY;
    }
  }
}

}  // namespace tsgen::cuda
