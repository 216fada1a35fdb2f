// The sweep on tensor cores: a warp's rows in registers, tiles of codes through shared memory.
//
// float32 is split into two bfloat16: x = h + l + r, |r| <= 2^-18 |x|, and of x·c the products h·h,
// h·l and l·h are summed in float32. What is left out is below 3.25 * 2^-18 |x| |c|.
#pragma once

#include "cuda/codes.cuh"

namespace tsgen::cuda {

constexpr int MOST_TILE_THREADS = 256;
constexpr int WARP_ROWS = 32;

// WHOLE: rows of at most DEPTH numbers, whose products need no second pass over them. DEPTH 8 is
// for float: h and l of a code side by side fill one B, and meet h of a row, then its l.
template <typename T, int DEPTH_, bool WHOLE>
struct Tile {
  using Part = typename Parts<T>::Type;
  static constexpr int DEPTH = DEPTH_;
  static constexpr int WIDTH = DEPTH == 8 ? 16 : DEPTH;          // of a code's part
  static constexpr int STEPS = WIDTH / 16;                       // products that are 16 deep
  static constexpr int PASS = DEPTH == 8 ? 0 : 1 + (STEPS > 1);  // see place_of_dim()
  static constexpr int ROW_PARTS = Parts<T>::n;
  static constexpr int CODE_PARTS = DEPTH == 8 ? 1 : Parts<T>::n;
  static constexpr int PRODUCTS = ROW_PARTS + CODE_PARTS - 1;  // a step
  static constexpr int GROUP = DEPTH == 64 ? 4 : 8;            // fewer where a look costs more
  static constexpr int CODES = WHOLE && DEPTH < 64 ? 128 : 64;
  static constexpr int SUB = 4 * GROUP;                 // codes with one group for a thread
  static constexpr int SUBS = WHOLE ? 1 : CODES / SUB;  // whose scores are held at once
  static constexpr int UNROLLED = WHOLE ? (PRODUCTS < 3 ? 2 : 1) : SUBS;
  static constexpr int PITCH = WIDTH + 8;  // so that rows are in other banks

  struct Stage {
    uint16_t code[CODE_PARTS][CODES][PITCH];
    float offset[CODES];
  };
  struct Stages {
    Stage at[2];
  };
  using Fragments = FragmentA[ROW_PARTS][STEPS][2];
  struct Scores {
    FragmentC at[2][SUB / 8];
  };

  // The products' error: 18 additions each (16 products, the sum, its rounding) that may cut at
  // the last bit of the largest addend, at most |x| |c| + |c|² / 2; what splitting leaves out; the
  // offset's and is_sure()'s.
  static float eta(int64_t D_pad) {
    const int64_t products = D_pad / 16 * PRODUCTS;
    return (float)(18 * products + (ROW_PARTS == 2 ? 104 : 0) + 8) * 0x1p-23f;
  }
};

template <typename Tile, typename T>
__device__ __forceinline__ void copy_stage(typename Tile::Stage& stage, const Codes<T>& codes,
                                           int64_t k, int64_t d) {
  constexpr int PIECES = Tile::WIDTH / 8;
  for (int i = threadIdx.x; i < Tile::CODE_PARTS * Tile::CODES * PIECES; i += blockDim.x) {
    const int piece = i % PIECES, code = i / PIECES % Tile::CODES, part = i / PIECES / Tile::CODES;
    copy_16(&stage.code[part][code][8 * piece],
            codes.parts + (part * (int64_t)codes.K_pad + k + code) * codes.D_pad + d + 8 * piece,
            true);
  }
  for (int i = threadIdx.x; i < Tile::CODES / 4; i += blockDim.x)
    copy_16(stage.offset + 4 * i, codes.offset + k + 4 * i, true);
  end_copies();
}

// Numbers d to d + DEPTH of the warp's rows, from row n on. A's columns 2 (lane % 4), the next, and
// these + 8 are 4 numbers side by side, see place_of_dim().
template <typename Tile, typename T>
__device__ __forceinline__ void load_rows(typename Tile::Fragments& a, const Rows<T>& rows,
                                          int64_t n, int64_t d, int64_t D) {
  const int lane = threadIdx.x % WARP, four = lane % 4;
#pragma unroll
  for (int i = 0; i < 4 * Tile::STEPS; ++i) {
    const int m = i / 2 % 2, half = i % 2, step = i / 4;
    const T* const row = rows.x + min(n + 16 * m + 8 * half + lane / 4, rows.N - 1) * D;
    const int64_t at =
        Tile::DEPTH == 8 ? 4 * (four / 2) : d + first_of_four(step, four, Tile::PASS);
    const Pack<T, 4> x = load_4(row, at, D, rows.packed && at < D);
#pragma unroll
    for (int part = 0; part < Tile::ROW_PARTS; ++part) {
      const uint32_t low = Parts<T>::of(x.at[0], x.at[1], part);
      const uint32_t high = Parts<T>::of(x.at[2], x.at[3], part);
      const bool narrow = Tile::DEPTH == 8;
      a[part][step][m].word[half] = narrow && four % 2 ? high : low;
      a[part][step][m].word[2 + half] = narrow && !(four % 2) ? low : high;
    }
  }
}

// One part of the SUB codes from `code` on, in one step.
template <typename Tile>
__device__ __forceinline__ void load_codes(FragmentB (&b)[Tile::SUB / 8],
                                           const uint16_t (&codes)[Tile::CODES][Tile::PITCH],
                                           int code, int step) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int i = 0; i < Tile::SUB / 8; i += 2) {
    uint32_t word[4];
    const int row = code + 8 * i + lane / 16 * 8 + lane % 8;
    load_matrices<false>(word, codes[row] + 16 * step + lane / 8 % 2 * 8);
    b[i] = {{word[0], word[1]}}, b[i + 1] = {{word[2], word[3]}};
  }
}

// scores += the products of the warp's rows with the SUB codes from `code` on, h·h last.
template <typename Tile>
__device__ __forceinline__ void multiply(typename Tile::Scores& scores,
                                         const typename Tile::Fragments& rows,
                                         const typename Tile::Stage& stage, int code) {
  const auto add = [&](const FragmentA(&a)[2], const FragmentB(&b)[Tile::SUB / 8]) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int i = 0; i < Tile::SUB / 8; ++i)
        multiply_add<typename Tile::Part>(scores.at[m][i], a[m], b[i]);
  };
#pragma unroll
  for (int step = 0; step < Tile::STEPS; ++step) {
    FragmentB b[Tile::CODE_PARTS][Tile::SUB / 8];
#pragma unroll
    for (int part = 0; part < Tile::CODE_PARTS; ++part)
      load_codes<Tile>(b[part], stage.code[part], code, step);
    if constexpr (Tile::ROW_PARTS == 2) add(rows[1][step], b[0]);
    if constexpr (Tile::CODE_PARTS == 2) add(rows[0][step], b[1]);
    add(rows[0][step], b[0]);
  }
}

// Scores that are nothing but the codes' offsets.
template <typename Tile>
__device__ __forceinline__ void begin(typename Tile::Scores& scores,
                                      const typename Tile::Stage& stage, int code) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < Tile::SUB / 8; ++i) {
    const auto offset = *(const Pack<float, 2>*)(stage.offset + code + 8 * i + column);
#pragma unroll
    for (int m = 0; m < 2; ++m)
      scores.at[m][i] = {{offset.at[0], offset.at[1], offset.at[0], offset.at[1]}};
  }
}

// A thread's four rows of the warp's 32: 16 m + 8 half + lane / 4, here number 2 m + half.
template <typename Tile>
__device__ __forceinline__ void offer(Best (&best)[4], const typename Tile::Scores& scores, int k) {
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    float top;
#pragma unroll
    for (int i = 0; i < Tile::SUB / 8; ++i) {
      const FragmentC& c = scores.at[r / 2][i];
      const float pair = max(c.at[r % 2 * 2], c.at[r % 2 * 2 + 1]);
      top = i == 0 ? pair : max(top, pair);
    }
    best[r].offer(top, k);
  }
}

// The best of four lanes, in each of them.
__device__ __forceinline__ void merge_lanes(Best& best) {
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    const float score = __shfl_xor_sync(ALL_LANES, best.score, step);
    const float second = __shfl_xor_sync(ALL_LANES, best.second, step);
    const int group = __shfl_xor_sync(ALL_LANES, best.group, step);
    best.second = max(max(best.second, second), min(best.score, score));
    if (score > best.score || (score == best.score && group < best.group)) best.group = group;
    best.score = max(best.score, score);
  }
}

// From the best group of each row to its nearest code: a lane computes some distances of four rows.
template <typename Tile, typename T>
__device__ __forceinline__ void finish(const Best (&best)[4], const Rows<T>& rows,
                                       const Codes<T>& codes, const Found& found, int64_t n) {
  constexpr int EACH = Tile::GROUP / 4;
  const int lane = threadIdx.x % WARP;
  const int64_t D = codes.D;
  float norm[4] = {}, squares[4][EACH] = {};
  for (int b = 0; b < (int)ceil_div(D, 4); ++b)
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int64_t row = min(n + 8 * r + lane / 4, rows.N - 1);
      const Pack<T, 4> x = load_4(rows.x + row * D, 4 * b, D, rows.packed);
      norm[r] = add_norm(norm[r], x);
#pragma unroll
      for (int i = 0; i < EACH; ++i)
        squares[r][i] =
            add_squares(squares[r][i], x,
                        codes.fours[(int64_t)b * codes.K_pad + best[r].group + 4 * i + lane % 4]);
    }
  uint64_t nearest = 0;  // of the row that the lane settles
  unsigned sure = 0;     // a bit a row: to choose among floats would put them into memory
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    uint64_t key = key_of(NAN, 0);
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      key = Min()(key, key_of(squares[r][i], best[r].group + 4 * i + lane % 4));
    key = over_lanes<4>(key, Min());
    nearest = lane % 4 == r ? key : nearest;
    sure |= (unsigned)is_sure(distance_of(key), norm[r], best[r].second, codes.eta, D) << r;
  }
  const int64_t row = n + lane % 4 * 8 + lane / 4;
  if (row < rows.N) settle(found, row, nearest, sure >> lane % 4 & 1);
}

template <typename T, int DEPTH, bool WHOLE>
__global__ void __launch_bounds__(MOST_TILE_THREADS, WHOLE || sizeof(T) == 2 ? 2 : 1)
    nearest_code_kernel(Rows<T> rows, Codes<T> codes, Found found) {
  using Tile = cuda::Tile<T, DEPTH, WHOLE>;
  auto& stages = shared<typename Tile::Stages>().at;
  const int64_t n = ((int64_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP) * WARP_ROWS;
  const int passes = WHOLE ? 1 : codes.D_pad / DEPTH, n_stages = codes.K_pad / Tile::CODES * passes;
  typename Tile::Fragments a;
  typename Tile::Scores scores[Tile::SUBS];
  Best best[4];
  copy_stage<Tile>(stages[0], codes, 0, 0);
  if (WHOLE) load_rows<Tile>(a, rows, n, 0, codes.D);

  int k0 = 0, pass = 0;
  for (int i = 0; i < n_stages; ++i) {
    const bool first = pass == 0, last = pass + 1 == passes;
    const int next_k0 = last ? k0 + Tile::CODES : k0, next_pass = last ? 0 : pass + 1;
    wait_for_copies<0>();
    __syncthreads();  // this stage is there, and nobody reads the other any more
    if (i + 1 < n_stages)
      copy_stage<Tile>(stages[(i + 1) % 2], codes, next_k0, (int64_t)next_pass * DEPTH);
    const typename Tile::Stage& stage = stages[i % 2];
    if (!WHOLE) load_rows<Tile>(a, rows, n, (int64_t)pass * DEPTH, codes.D);
#pragma unroll(Tile::UNROLLED)
    for (int sub = 0; sub < Tile::CODES / Tile::SUB; ++sub) {
      auto& sums = scores[WHOLE ? 0 : sub];
      const int code = sub * Tile::SUB;
      if (WHOLE || first) begin<Tile>(sums, stage, code);
      multiply<Tile>(sums, a, stage, code);
      if (WHOLE || last) offer<Tile>(best, sums, k0 + code + threadIdx.x % 4 * Tile::GROUP);
    }
    k0 = next_k0, pass = next_pass;
  }

#pragma unroll
  for (int r = 0; r < 4; ++r) merge_lanes(best[r]);
  finish<Tile>(best, rows, codes, found, n);
}

}  // namespace tsgen::cuda
