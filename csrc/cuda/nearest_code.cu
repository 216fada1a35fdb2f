// Nearest codeword: a sweep over groups of codes on tensor cores, then distances in float32.
//
// The sweep's error has a bound. Rows for which that leaves a doubt are searched once more, so the
// result is that of a search in float32 throughout: see codes.cuh.
#include "cuda/code_sums.cuh"
#include "cuda/codes_tiles.cuh"
#include "ops_cuda.h"

namespace tsgen::cuda {
namespace {

constexpr int64_t MANY_ROWS = 1 << 16;  // that fill a GPU with the largest blocks
constexpr int PACK_THREADS = 128;

// What lies in the scratch memory, at which byte.
struct Scratch {
  int64_t K_pad, D_pad, n_chunks, n_windows, end = 0;
  int log_chunk = 11;
  int64_t fours, offset, parts, n_put_off, rows, counters, starts, sums;

  Scratch(int64_t N, int64_t K, int64_t D) {
    K_pad = ceil_div(K, MOST_CODES) * MOST_CODES;
    D_pad = D <= 16 ? 16 : D <= 32 ? 32 : ceil_div(D, 32) * 32;
    while (((int64_t)1 << log_chunk) < 2 * K) ++log_chunk;  // counters take 4 bytes a row at most
    n_chunks = ceil_div(N, (int64_t)1 << log_chunk), n_windows = ceil_div(N, WINDOW);
    fours = take(K_pad * ceil_div(D, 4) * 4 * sizeof(float));
    offset = take(K_pad * sizeof(float));
    parts = take(2 * K_pad * D_pad * sizeof(uint16_t));
    n_put_off = take(sizeof(int64_t));
    rows = take(N * sizeof(int64_t));  // put off, and then in order
    counters = take(n_chunks * K * sizeof(int64_t));
    starts = take((K + 1) * sizeof(int64_t));
    sums = take(2 * n_windows * D * sizeof(float));
  }

  int64_t take(int64_t n_bytes) {
    const int64_t at = end;
    end += ceil_div(n_bytes, 16) * 16;
    return at;
  }
};

// One search: its operands, and how codes are packed for it.
template <typename T>
struct Search {
  const Launch& on;
  const T* codes;
  Rows<T> rows;
  Codes<T> packed;
  Found found;

  void pack(Packing how, int64_t D_pad) {
    packed.D_pad = (int)D_pad, packed.eta = how.eta;
    launch(on, pack_codes_kernel<T>, packed.K_pad * WARP / PACK_THREADS, PACK_THREADS, 0, codes,
           (T*)packed.fours, (float*)packed.offset, (uint16_t*)packed.parts, found.n_put_off,
           packed.K, packed.D, (int64_t)packed.K_pad, D_pad, how);
  }

  template <int DEPTH, bool WHOLE>
  void on_tiles() {
    using Tile = cuda::Tile<T, DEPTH, WHOLE>;
    const int64_t D_pad = WHOLE ? Tile::WIDTH : ceil_div(packed.D, DEPTH) * DEPTH;
    pack({Tile::GROUP, Tile::PASS, Tile::eta(D_pad)}, D_pad);
    const int threads = rows.N < MANY_ROWS ? MOST_TILE_THREADS / 4 : MOST_TILE_THREADS;
    launch(on, nearest_code_kernel<T, DEPTH, WHOLE>, ceil_div(rows.N, threads / WARP * WARP_ROWS),
           threads, sizeof(typename Tile::Stages), rows, packed, found);
  }

  void run() {
    const int64_t D = packed.D;
    if constexpr (sizeof(T) == sizeof(float))
      if (D <= 8) return on_tiles<8, true>();
    if (D <= 16) return on_tiles<16, true>();
    if (D <= 32) return on_tiles<32, true>();
    if (D <= 64) return on_tiles<64, true>();
    on_tiles<32, false>();
  }
};

template <typename T>
void sum_codes(const Launch& on, const Rows<T>& rows, const int64_t* ids, const float* distance,
               int64_t* counts, float* sums, const Sorting& sorting, int64_t K, int64_t D) {
  const auto blocks = [](int64_t threads) { return ceil_div(threads, SORT_THREADS); };
  const int64_t N = rows.N, n_counters = sorting.n_chunks * K;
  int log_lanes = 0;
  while (log_lanes < 5 && (4 << log_lanes) < D) ++log_lanes;
  const int64_t n_sums = sorting.n_windows * ceil_div(D, 4 << log_lanes);
  if (N > 0) {
    launch(on, clear_counters_kernel, blocks(n_counters), SORT_THREADS, 0, sorting.counters,
           n_counters);
    launch(on, count_codes_kernel, blocks(N), SORT_THREADS, 0, ids, distance, sorting, N, K);
  }
  launch(on, add_chunks_kernel, blocks(K * WARP), SORT_THREADS, 0, sorting, counts, K);
  launch(on, add_codes_kernel, 1, SORT_THREADS, 0, (const int64_t*)counts, sorting.starts, K);
  if (N > 0) {
    launch(on, place_rows_kernel, blocks(sorting.n_chunks * WARP), SORT_THREADS, 0, ids, distance,
           sorting, N, K);
    launch(on, sum_windows_kernel<T>, blocks(n_sums << log_lanes), SORT_THREADS, 0, rows.x, sorting,
           sums, K, D, log_lanes, rows.packed);
  }
  launch(on, add_windows_kernel, blocks(K * D), SORT_THREADS, 0, sorting, sums, K, D);
}

}  // namespace

int64_t nearest_code_scratch(int64_t N, int64_t K, int64_t D) { return Scratch(N, K, D).end; }

void nearest_code(const Launch& on, const void* x, const void* codes, int64_t* ids, float* distance,
                  int64_t* counts, float* sums, int64_t N, int64_t K, int64_t D) {
  const Scratch scratch(N, K, D);
  char* const at = (char*)on.scratch;
  int64_t* const rows_at = (int64_t*)(at + scratch.rows);
  by_dtype(on.dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool packed = D > 0 && D % 4 == 0 && (uintptr_t)x % (4 * sizeof(T)) == 0;
    const Rows<T> rows{(const T*)x, packed, N};
    const Codes<T> packed_codes{(const Pack<T, 4>*)(at + scratch.fours),
                                (const float*)(at + scratch.offset),
                                (const uint16_t*)(at + scratch.parts),
                                K,
                                D,
                                (int)scratch.K_pad};
    const Found found{ids, distance, rows_at, (unsigned long long*)(at + scratch.n_put_off)};
    if (N > 0) {
      Search<T>{on, (const T*)codes, rows, packed_codes, found}.run();
      launch(on, nearest_code_again_kernel<T>, min(ceil_div(N, ALL_ROWS), (int64_t)ALL_BLOCKS),
             ALL_THREADS, 0, rows, packed_codes, found);
    }
    if (counts == nullptr) return;
    const Sorting sorting{(unsigned long long*)(at + scratch.counters),
                          (int64_t*)(at + scratch.starts),
                          rows_at,
                          (float*)(at + scratch.sums),
                          scratch.n_chunks,
                          scratch.n_windows,
                          scratch.log_chunk};
    sum_codes(on, rows, ids, distance, counts, sums, sorting, K, D);
  });
}

}  // namespace tsgen::cuda
