// What a CTA knows of the draws of its sequences: the law of tsgen/sampler.py, with no known
// tokens, no top_k and no top_p, behind the logits.
//
// A row is a masked place: row g count + j the j-th one of sequence g. Codes stand in pieces of
// which sums are kept, so that a row has to look for its code in one of them alone.
#pragma once

#include "cuda/decode.h"
#include "cuda/machine/functions.cuh"
#include "cuda/machine/reduce.cuh"
#include "philox.h"

namespace tsgen::cuda {

// Of a row and a piece of the codes: the largest logit, and sums of exponentials of what is below
// it, at the temperature and at 1.
struct PieceSums {
  float largest, tempered, plain;
};

// What a row looks for in its piece, and what its log-probability is made of.
struct Wanted {
  double rest;   // of u's share, in units of the piece's own sum
  double total;  // the plain sum of all pieces
  float largest;
  int piece;  // none: negative
};

// Where Draws are in shared memory, in bytes, from `ids` to `end`, for n sequences of N tokens.
struct DrawRoom {
  int ids, place, drawn, logp, confidence, wanted, invalid, end;
};

inline DrawRoom draw_room(int begin, int n, int N) {
  DrawRoom room;
  const int numbers = round_up(4 * n * N, 16);
  room.ids = begin;
  room.place = room.ids + numbers;
  room.drawn = room.place + numbers;
  room.logp = room.drawn + numbers;
  room.confidence = room.logp + numbers;
  room.wanted = room.confidence + 2 * numbers;
  room.invalid = room.wanted + (int)sizeof(Wanted) * n * N;
  room.end = room.invalid + round_up(n, 16);
  return room;
}

// All threads of the block take part in all calls; a barrier is at the end of each.
struct Draws {
  const DecodeSizes& z;
  const DecodeRequest& request;
  int n;                     // sequences
  int64_t first;             // of the request
  int *ids, *place, *drawn;  // (n, N), (n, N), rows
  float* logp;
  double* confidence;
  Wanted* wanted;
  bool* invalid;  // (n)

  __device__ Draws(char* shared, const DrawRoom& room, const DecodeSizes& sizes,
                   const DecodeRequest& asked, int sequences)
      : z(sizes),
        request(asked),
        n(sequences),
        first((int64_t)blockIdx.x * sequences),
        ids((int*)(shared + room.ids)),
        place((int*)(shared + room.place)),
        drawn((int*)(shared + room.drawn)),
        logp((float*)(shared + room.logp)),
        confidence((double*)(shared + room.confidence)),
        wanted((Wanted*)(shared + room.wanted)),
        invalid((bool*)(shared + room.invalid)) {}

  // Sequence g's place in the request; behind the last one stands the last again.
  __device__ int64_t sequence(int g) const { return min(first + g, request.B - 1); }
  // Its class in a pass; the second one has none.
  __device__ int64_t class_of(int pass, int g) const {
    return pass ? z.n_classes : request.class_id[sequence(g)];
  }

  __device__ void begin() const {
    for (int i = threadIdx.x; i < n * z.N; i += blockDim.x) ids[i] = z.K, place[i] = i % z.N;
    for (int g = threadIdx.x; g < n; g += blockDim.x) invalid[g] = false;
    __syncthreads();
  }

  // which piece the u of every row falls into, given sums (rows, pieces)
  __device__ void choose(const PieceSums* sums, int pieces, int count, int step) const {
    for (int r = threadIdx.x; r < n * count; r += blockDim.x) {
      const int64_t b = sequence(r / count);
      const uint32_t at = (uint32_t)place[r / count * z.N + r % count];
      const PhiloxWords words = philox_at((uint64_t)request.seed[b], request.index[b], at, 0,
                                          (uint32_t)step, (uint32_t)z.band);
      choose_piece(r, sums + (int64_t)r * pieces, uniform(words.word[0], words.word[1]), pieces);
      confidence[r] = uniform(words.word[2], words.word[3]);  // its noise, for now
    }
    __syncthreads();
  }

  // no law: none, and the log-probability is NaN
  __device__ void choose_piece(int r, const PieceSums* row, double u, int pieces) const {
    float largest = -INFINITY;
    for (int c = 0; c < pieces; ++c) largest = fmaxf(largest, row[c].largest);
    double tempered = 0, plain = 0;
    for (int c = 0; c < pieces; ++c) {
      tempered += (double)row[c].tempered * exp2f((row[c].largest - largest) * z.sharpness);
      plain += (double)row[c].plain * exp2f((row[c].largest - largest) * LOG2_E);
    }
    Wanted found{0, plain, largest, -1};
    double before = 0;
    for (int c = 0; c < pieces; ++c) {
      const double scale = exp2f((row[c].largest - largest) * z.sharpness);
      const double share = row[c].tempered * scale;
      if (!(share > 0)) continue;
      // a later one only while this is not far enough, so the last one takes what rounding left
      found.piece = c, found.rest = (u * tempered - before) / scale;
      before += share;
      if (before > u * tempered) break;
    }
    if (!(tempered > 0) || !(plain > 0)) found.piece = -1;
    wanted[r] = found;
    if (found.piece < 0) drawn[r] = 0, logp[r] = NAN;
  }

  // row r has drawn a code
  __device__ void draw(int r, int code, float logit) const {
    drawn[r] = code;
    logp[r] = (float)((double)logit - wanted[r].largest - log(wanted[r].total));
  }

  // keep what was drawn but for the `again` least confident places of every sequence
  __device__ void remask(int count, int again, double noise) const {
    for (int r = threadIdx.x; r < n * count; r += blockDim.x) {
      const double c = logp[r] - noise * log(-log(confidence[r]));
      confidence[r] = c == c ? c : -INFINITY;
    }
    __syncthreads();
    for (int r = threadIdx.x; r < n * count; r += blockDim.x) {
      const double* const row = confidence + r / count * count;
      const double own = confidence[r];
      int lower = 0;  // than r in confidence; on a tie the lower position stays
#pragma unroll 4
      for (int i = 0; i < count; ++i) lower += row[i] < own || (row[i] == own && i > r % count);
      wanted[r].piece = lower < again;  // masked, from now on
    }
    __syncthreads();
    for (int g = threadIdx.x / WARP; g < n; g += blockDim.x / WARP) take_places(g, count);
    __syncthreads();
  }

  // Of sequence g, by a warp: new ids of what is kept, new places of what is masked.
  __device__ void take_places(int g, int count) const {
    const int lane = thread_now() % WARP;
    int* const places = place + g * z.N;
    int n_masked = 0;
    bool wrong = false;
    for (int j0 = 0; j0 < count; j0 += WARP) {
      const int j = j0 + lane, r = g * count + j;
      const bool there = j < count, masked = there && wanted[r].piece;
      const int at = there ? places[j] : 0;
      if (there && !masked) ids[g * z.N + at] = drawn[r];
      wrong |= there && !(fabsf(logp[r]) < INFINITY);
      const unsigned all = __ballot_sync(ALL_LANES, masked);
      __syncwarp();  // all have read their places
      if (masked) places[n_masked + __popc(all & ((1u << lane) - 1))] = at;
      n_masked += __popc(all);
    }
    if (__any_sync(ALL_LANES, wrong)) invalid[g] = true;
  }

  __device__ void end() const {
    for (int i = threadIdx.x; i < n * z.N; i += blockDim.x)
      if (first + i / z.N < request.B) request.ids[first * z.N + i] = ids[i];
    for (int g = threadIdx.x; g < n; g += blockDim.x)
      if (first + g < request.B && invalid[g]) request.invalid[first + g] = 1;
  }
};

}  // namespace tsgen::cuda
