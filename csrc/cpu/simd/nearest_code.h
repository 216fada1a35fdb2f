#pragma once

#include <cstdint>

#include "machine/isa.h"

namespace tsgen::cpu {

constexpr int64_t MOST_ROWS = 32;     // rows that any instruction set ranks together
constexpr int64_t MOST_IN_TILE = 16;  // codes, and numbers that a vector may touch behind an array

// Codes as they are ranked: x·c - |c|²/2 is largest for the nearest one.
struct RankedCodes {
  const float* codes;   // (K, D)
  const float* tiles;   // the same in tiles, each D rows of a few codes; 0 where offset is infinite
  const float* offset;  // (K) -|c|²/2; -infinity, so never best, where |c|² is NaN or infinite
  int64_t K, D;
};

// tiles holds (K + MOST_IN_TILE) * D + MOST_IN_TILE floats, offset K + MOST_IN_TILE.
using TileCodes = void(const float* codes, float* tiles, float* offset, int64_t K, int64_t D);

// ids and distance of n rows of x, panel: MOST_ROWS * D floats of scratch.
using NearestRows = void(const float* x, const RankedCodes& ranked, float* panel, int64_t* ids,
                         float* distance, int64_t n);

// counts (K) and sums (K, D) plus the n rows of x, but for those with distance NaN.
using AddRows = void(const float* x, const int64_t* ids, const float* distance, int64_t* counts,
                     float* sums, int64_t n, int64_t D);

TSGEN_EACH_ISA(TileCodes tile_codes; NearestRows nearest_rows; AddRows add_rows;)

}  // namespace tsgen::cpu
