// The inner loops of nearest_code, once per instruction set.
//
// A lane is a row of x, and a panel of rows is transposed into cache once, so that the best score
// and its id never leave their lane while the codes stream past: no sum across lanes.
#include "simd/nearest_code.h"

#include "simd/turn.h"

namespace tsgen::cpu::TSGEN_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int CODES = 12, STEP = 4;  // 12 x 2 sums and 2 vectors of x: 26 of 32 registers
#elif defined(__AVX2__)
constexpr int CODES = 6, STEP = 2;  // 6 x 2, 2 and 1 code: 15 of 16
#else
constexpr int CODES = 4, STEP = 2;
#endif
constexpr int ROWS = 2 * LANES;  // of a panel
constexpr int TOGETHER = 4;      // rows whose tiles are searched together, or each sum waits
constexpr int64_t LINE = 16;     // floats in a line of cache
constexpr float INFINITE = __builtin_inff();
static_assert(ROWS <= MOST_ROWS && CODES <= LANES && LANES <= MOST_IN_TILE);

// Half as many floats as there are lanes, and as doubles.
typedef float Half __attribute__((vector_size(sizeof(Floats) / 2), aligned(4), may_alias));
typedef double Doubles __attribute__((TSGEN_VECTOR, aligned(8), may_alias));

Doubles load_doubles(const float* from) {
  return __builtin_convertvector(*(const Half*)from, Doubles);
}

// all() without its addition: 0 + x has to be computed, it is not x for x = -0, but x - 0 is.
Floats broadcast(float x) { return x - Floats{}; }

// sum += x * code. The compiler would load a code once into a register for both its uses, which
// takes a third more of the registers behind the 32 that hold results still on their way: 10 %
// slower at 8 numbers a code.
void add_product(Floats& sum, Floats x, const float* code) {
#if defined(__AVX512F__)
  asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(x), "m"(*code));
#else
  sum += x * broadcast(*code);
#endif
}

// What add_product makes of it: one FMA there, so one here, however little is optimised.
Floats added_product(Floats sum, Floats x, Floats code) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)x, (__m512)code, (__m512)sum);
#else
  return sum + x * code;
#endif
}

// Codes in the tile that begins at code k: CODES, but for the last one no more than it needs.
int64_t width(int64_t k, int64_t K) {
  return K - k >= CODES ? CODES : (K - k + STEP - 1) / STEP * STEP;
}

// to[d * stride + r] = from[r, d] for LANES rows, zeros from n on. In order of d: what a store
// writes behind `stride` is overwritten by the next.
void transpose_rows(const float* from, int64_t n, int64_t D, float* to, int64_t stride) {
  for (int64_t d = 0; d < D; d += LANES) {
    const int64_t depth = D - d < LANES ? D - d : LANES;
    Floats v[LANES];
#pragma GCC unroll 16
    for (int r = 0; r < LANES; ++r) {
      const float* const row = from + r * D + d;
      v[r] = r >= n ? Floats{} : depth == LANES ? load(row) : load_first(row, depth);
    }
    turn(v);
    if (depth == LANES)
#pragma GCC unroll 16
      for (int i = 0; i < LANES; ++i) store(to + (d + i) * stride, v[i]);
    else
      for (int i = 0; i < depth; ++i) store(to + (d + i) * stride, v[i]);
  }
}

struct Best {
  Floats score[2];
  Ints id[2];

  void offer(int v, Floats s, int32_t with) {
    id[v] = s > score[v] ? Ints{} + with : id[v];  // strict: a tie keeps the lower id
    score[v] = larger(s, score[v]);                // NaN never wins
  }
};

// Offers n_codes codes to every row of the panel; by_tile: only the best of them, as code k.
template <int n_codes, bool by_tile>
void rank_tile(const float* panel, const float* tile, const float* offset, int32_t k, int64_t D,
               Best& best) {
  Floats score[n_codes][2];
#pragma GCC unroll 16
  for (int c = 0; c < n_codes; ++c) score[c][0] = score[c][1] = broadcast(offset[c]);

  for (int64_t d = 0; d < D; ++d) {
    const Floats x0 = load(panel + d * ROWS), x1 = load(panel + d * ROWS + LANES);
#pragma GCC unroll 16
    for (int c = 0; c < n_codes; ++c) {
      add_product(score[c][0], x0, tile + d * n_codes + c);
      add_product(score[c][1], x1, tile + d * n_codes + c);
    }
  }

#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
#pragma GCC unroll 16
    for (int c = 0; c < n_codes; ++c)
      if (!by_tile)
        best.offer(v, score[c][v], k + c);
      else if (c)
        score[0][v] = larger(score[c][v], score[0][v]);
    if (by_tile) best.offer(v, score[0][v], k);
  }
}

// Offers every code. Meanwhile the rows of the next panel, `ahead`, come into the L2 cache, some
// with each tile: without, 32 codes of 64 numbers take half as long again.
template <bool by_tile>
void rank(const float* panel, const RankedCodes& ranked, const float* ahead, Best& best) {
  const int64_t D = ranked.D, lines = D * ROWS / LINE, n_tiles = (ranked.K + CODES - 1) / CODES;
  for (int64_t k = 0; k < ranked.K; k += CODES) {
    const float *const tile = ranked.tiles + k * D, *const offset = ranked.offset + k;
    const int64_t n = width(k, ranked.K);
    for (int64_t i = lines / n_tiles; i >= 0; --i, ahead += LINE) __builtin_prefetch(ahead, 0, 2);
    if (n == CODES)
      rank_tile<CODES, by_tile>(panel, tile, offset, (int32_t)k, D, best);
    else if (n == 2 * STEP)
      rank_tile<2 * STEP, by_tile>(panel, tile, offset, (int32_t)k, D, best);
    else
      rank_tile<STEP, by_tile>(panel, tile, offset, (int32_t)k, D, best);
  }
}

int first_equal(Floats x, float to) {
#if defined(__AVX512F__)
  const unsigned lanes = _mm512_cmpeq_ps_mask((__m512)x, _mm512_set1_ps(to));
#elif defined(__AVX2__)
  const unsigned lanes = _mm256_movemask_ps((__m256)(x == broadcast(to)));
#else
  unsigned lanes = 0;
  for (int i = 0; i < LANES; ++i) lanes |= (unsigned)(x[i] == to) << i;
#endif
  return lanes ? __builtin_ctz(lanes) : 0;  // none: a row with NaN
}

// From the tile that has the best code to that code, for TOGETHER rows from r on. A lane is a code
// now, and computes the very same bits as in rank_tile, so the best score is found by its value.
void find_in_tile(const float* panel, const RankedCodes& ranked, const float* score, int r,
                  int32_t* ids) {
  Floats sum[TOGETHER];
  const float* tile[TOGETHER];
  int64_t step[TOGETHER];
  for (int i = 0; i < TOGETHER; ++i) {
    const int64_t k = ids[r + i];
    sum[i] = load(ranked.offset + k);
    tile[i] = ranked.tiles + k * ranked.D;
    step[i] = width(k, ranked.K);
  }
  for (int64_t d = 0; d < ranked.D; ++d)
    for (int i = 0; i < TOGETHER; ++i) {
      sum[i] = added_product(sum[i], broadcast(panel[d * ROWS + r + i]), load(tile[i]));
      tile[i] += step[i];
    }
  for (int i = 0; i < TOGETHER; ++i) ids[r + i] += first_equal(sum[i], score[r + i]);
}

// Ids of the ROWS rows of the panel.
void rank_panel(const float* panel, const RankedCodes& ranked, const float* ahead, int32_t* ids) {
  Best best{{broadcast(-INFINITE), broadcast(-INFINITE)}, {}};
  // a row costs K / LANES comparisons the one way, D products and some the other
  const bool by_tile = ranked.K > LANES * (ranked.D + 16);
  if (by_tile)
    rank<true>(panel, ranked, ahead, best);
  else
    rank<false>(panel, ranked, ahead, best);
  for (int v = 0; v < 2; ++v) *(Ints*)(ids + v * LANES) = best.id[v];
  if (!by_tile) return;
  float score[ROWS];
  for (int v = 0; v < 2; ++v) store(score + v * LANES, best.score[v]);
  for (int r = 0; r < ROWS; r += TOGETHER) find_in_tile(panel, ranked, score, r, ids);
}

float squared_distance(const float* a, const float* b, int64_t D) {
  Floats total{};
  int64_t d = 0;
  for (; d + LANES <= D; d += LANES) {
    const Floats difference = load(a + d) - load(b + d);
    total += difference * difference;
  }
  if (d < D) {
    const Floats difference = load_first(a + d, D - d) - load_first(b + d, D - d);
    total += difference * difference;
  }
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)total);  // in the order of sum()
#else
  return sum(total);
#endif
}

bool finite(const float* x, int64_t D) {
  for (int64_t d = 0; d < D; ++d)
    if (!(__builtin_fabsf(x[d]) < INFINITE)) return false;
  return true;
}

}  // namespace

void tile_codes(const float* codes, float* tiles, float* offset, int64_t K, int64_t D) {
  for (int64_t k = 0; k < K; k += CODES)
    transpose_rows(codes + k * D, K - k, D, tiles + k * D, width(k, K));

  for (int64_t k = 0; k < K; k += CODES) {
    const int64_t n = width(k, K);
    float* const tile = tiles + k * D;
    Doubles norm[2]{};  // float64, so that a small x·c is not lost beside a large |c|²
    for (int64_t d = 0; d < D; ++d)
      for (int h = 0; h < 2; ++h) {
        const Doubles some = load_doubles(tile + d * n + h * LANES / 2);
        norm[h] += some * some;
      }
    for (int64_t c = 0; c < n; ++c) {
      const float half = (float)(norm[c / (LANES / 2)][c % (LANES / 2)] / 2);
      const bool usable = k + c < K && half < INFINITE;
      offset[k + c] = usable ? -half : -INFINITE;
      if (!usable)
        for (int64_t d = 0; d < D; ++d) tile[d * n + c] = 0;
    }
  }
  for (int64_t k = K; k < K + MOST_IN_TILE; ++k) offset[k] = -INFINITE;
}

void nearest_rows(const float* x, const RankedCodes& ranked, float* panel, int64_t* ids,
                  float* distance, int64_t n) {
  const int64_t D = ranked.D;
  for (int64_t n0 = 0; n0 < n; n0 += ROWS) {
    for (int v = 0; v < 2; ++v)
      transpose_rows(x + (n0 + v * LANES) * D, n - n0 - v * LANES, D, panel + v * LANES, ROWS);
    int32_t best[ROWS];
    rank_panel(panel, ranked, x + (n0 + ROWS) * D, best);
    for (int64_t r = 0; r < ROWS && n0 + r < n; ++r) {
      const float* const row = x + (n0 + r) * D;
      const float apart = squared_distance(row, ranked.codes + best[r] * D, D);
      const bool good = apart < INFINITE || finite(row, D);
      ids[n0 + r] = good ? best[r] : 0;
      distance[n0 + r] = good ? apart : __builtin_nanf("");
    }
  }
}

void add_rows(const float* x, const int64_t* ids, const float* distance, int64_t* counts,
              float* sums, int64_t n, int64_t D) {
  for (int64_t i = 0; i < n; ++i) {
    if (distance[i] != distance[i]) continue;
    ++counts[ids[i]];
    const float* const row = x + i * D;
    float* const to = sums + ids[i] * D;
    int64_t d = 0;
    for (; d + LANES <= D; d += LANES) store(to + d, load(to + d) + load(row + d));
    if (d < D) store_first(to + d, load_first(to + d, D - d) + load_first(row + d, D - d), D - d);
  }
}

}  // namespace tsgen::cpu::TSGEN_ISA
