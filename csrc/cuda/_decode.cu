// One band's whole decoding loop in one kernel: embedding, layers, head, draws and masks of every
// step. A CTA takes whole sequences, which need nothing of each other, so nothing waits for others.
//
// The law is that of tsgen/sampler.py, with no known tokens, no top_k and no top_p. The head goes
// over the codes twice, a piece of them at a time: for the sums, then for the piece that u falls
// into. Nothing but ids reaches the device's memory.
#include "cuda/block.cuh"
#include "ops_cuda.h"
#include "philox.h"

namespace tsgen::cuda {
namespace {

template <typename T>
struct DecodeWeights {
  BlockWeights<T> layer[MOST_LAYERS];
  const T *tokens, *first, *head_in, *head;  // as DecodeTables has them
  const float *places, *classes, *head_in_bias, *head_gain, *head_shift, *head_bias;
};

// Where a CTA keeps what the block does not know of, in bytes; the pieces of logits stand where x
// was, what is known of each piece where the block had a, q and k.
struct DecodeRoom {
  BlockRoom block;
  int n;      // sequences of a CTA; each goes through twice where there is guidance
  int piece;  // codes
  int ids, place, drawn, logp, confidence, wanted, invalid;
  int n_bytes;
};

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
  int piece;
};

int n_pieces(const DecodeSizes& z, int piece) { return (int)ceil_div(z.K, piece); }

// How many sequences fit.
int most_sequences(const DecodeSizes& z) { return MOST_ROWS / z.block.T / (z.guided ? 2 : 1); }

DecodeRoom decode_room(const DecodeSizes& z, int n) {
  DecodeRoom room;
  room.block = block_room(z.block, z.guided ? 2 * n : n);
  room.n = n;
  room.piece = z.block.D < 64 ? z.block.D : z.block.D / 64 * 64;
  const int rows = round_up(room.block.M, 16);
  room.ids = room.block.n_bytes;
  room.place = room.ids + round_up(4 * room.block.M, 16);
  room.drawn = room.place + round_up(4 * room.block.M, 16);
  room.logp = room.drawn + round_up(4 * room.block.M, 16);
  room.confidence = room.logp + round_up(4 * room.block.M, 16);
  room.wanted = room.confidence + 8 * rows;
  room.invalid = room.wanted + (int)sizeof(Wanted) * rows;
  room.n_bytes = room.invalid + round_up(room.n, 16);
  return room;
}

__device__ double uniform(uint32_t high, uint32_t low) {
  return ((double)((uint64_t)high << 20 | low >> 12) + 0.5) * 0x1p-52;
}

template <typename T>
struct Decoder {
  const DecodeWeights<T>& w;
  const DecodeSizes& z;
  const DecodeRoom& room;
  const DecodeRequest& request;
  BlockTile<T> tile;
  Rows<T> h;  // the head's input, later its last layer's: where attention's result was
  float *logits, *logp;
  PieceSums* sums;
  int *ids, *place, *drawn;  // (n, N), (n, N), rows
  double* confidence;
  Wanted* wanted;
  bool* invalid;  // (n)
  int64_t first;  // sequence of the CTA

  __device__ Decoder(char* shared, const DecodeWeights<T>& weights, const DecodeSizes& sizes,
                     const DecodeRoom& where, const DecodeRequest& asked)
      : w(weights),
        z(sizes),
        room(where),
        request(asked),
        tile(shared, sizes.block, where.block),
        h{(T*)(shared + where.block.mixed), round_up(sizes.block.D, K_STEP)},
        logits((float*)shared),
        logp((float*)(shared + where.logp)),
        sums((PieceSums*)(shared + where.block.a)),
        ids((int*)(shared + where.ids)),
        place((int*)(shared + where.place)),
        drawn((int*)(shared + where.drawn)),
        confidence((double*)(shared + where.confidence)),
        wanted((Wanted*)(shared + where.wanted)),
        invalid((bool*)(shared + where.invalid)),
        first((int64_t)blockIdx.x * where.n) {}

  __device__ int passes() const { return z.guided ? 2 : 1; }
  // Sequence g's place in the request; behind the last one stands the last again.
  __device__ int64_t sequence(int g) const { return min(first + g, request.B - 1); }
  __device__ int64_t class_of(int pass, int g) const {
    return pass ? z.n_classes : request.class_id[sequence(g)];
  }

  // x = the embeddings of all tokens, the class first
  __device__ void embed() const {
    const int D = z.block.D, T_ = z.block.T, n_rows = passes() * room.n * T_;
    each_warp(room.block.M, [&](int m) {
      const int g = m / T_ % room.n, pass = m / T_ / room.n, n = m % T_ - 1;
      const int64_t b = sequence(g);
      for (int i = threadIdx.x % WARP; i < D; i += WARP) {
        float y = 0;
        if (m < n_rows && n < 0) y = w.classes[class_of(pass, g) * D + i];
        if (m < n_rows && n >= 0) {
          y = load(w.tokens[(int64_t)ids[g * z.N + n] * D + i]) + w.places[n * D + i];
          if (request.context) y += load(((const T*)request.context)[(b * z.N + n) * D + i]);
        }
        tile.x.at(m, i) = y;
      }
    });
    __syncthreads();
  }

  // h = the head's last layer's input at the masked places, row g count + j: the j-th one of g
  __device__ void hidden(int count, bool known) const {
    const int D = z.block.D, rows = room.n * count, all = passes() * rows;
    if (known) {
      each_warp(all, [&](int r) {
        const int g = r / count % room.n, at = place[g * z.N + r % count];
        const T* const from = w.first + (class_of(r / rows, g) * z.N + at) * D;
        for (int i = threadIdx.x % WARP; i < h.width; i += WARP)
          *h.at(r, i) = i < D ? from[i] : store<T>(0);
      });
      __syncthreads();
    } else {
      each_warp(all, [&](int r) {
        const int g = r / count % room.n, at = place[g * z.N + r % count];
        const int m = (r / rows * room.n + g) * z.block.T + 1 + at;
        for (int i = threadIdx.x % WARP; i < h.width; i += WARP)
          *h.at(r, i) = store<T>(i < D ? tile.x.at(m, i) : 0);
      });
      __syncthreads();
      product(
          h, all, D, D, [&](int n) { return w.head_in + (int64_t)n * D; },
          [&](int r, int n, float y0, float y1) {
            tile.sum[r * D + n] = gelu(y0 + w.head_in_bias[n]);
            tile.sum[r * D + n + 1] = gelu(y1 + w.head_in_bias[n + 1]);
          });
      __syncthreads();
      each_warp(all, [&](int r) {
        normalise(
            D, w.head_gain, w.head_shift, z.block.eps, [&](int i) { return tile.sum[r * D + i]; },
            [&](int i, float y) { *h.at(r, i) = store<T>(y); });
      });
      __syncthreads();
    }
    if (!z.guided) return;
    each_warp(rows, [&](int r) {  // the head is linear
      for (int i = threadIdx.x % WARP; i < D; i += WARP) {
        const float with = load(*h.at(r, i)), without = load(*h.at(rows + r, i));
        *h.at(r, i) = store<T>(without + z.guidance * (with - without));
      }
    });
    __syncthreads();
  }

  // logits (rows, piece) of the codes from `code` on
  __device__ void piece_of_logits(int rows, int code) const {
    const int n_codes = min(room.piece, z.K - code), D = z.block.D;
    product(
        h, rows, D, n_codes, [&](int n) { return w.head + (int64_t)(code + n) * D; },
        [&](int r, int n, float y0, float y1) {
          logits[r * room.piece + n] = y0 + w.head_bias[code + n];
          if (n + 1 < n_codes) logits[r * room.piece + n + 1] = y1 + w.head_bias[code + n + 1];
        });
    __syncthreads();
  }

  __device__ void sum_piece(int r, int n_codes, PieceSums& to) const {
    const float* const row = logits + r * room.piece;
    const int lane = threadIdx.x % WARP;
    float largest = -INFINITY, tempered = 0, plain = 0;
    for (int i = lane; i < n_codes; i += WARP) largest = fmaxf(largest, row[i]);
    largest = over_lanes(largest, Max());
    for (int i = lane; i < n_codes; i += WARP) {
      tempered += exp2f((row[i] - largest) * z.sharpness);
      plain += exp2f((row[i] - largest) * LOG2_E);
    }
    tempered = over_lanes(tempered, Sum()), plain = over_lanes(plain, Sum());
    if (lane == 0) to = {largest, tempered, plain};
  }

  // which piece u falls into; no law: none, and the log-probability is NaN
  __device__ void choose_piece(int r, double u, int pieces) const {
    const PieceSums* const row = sums + (int64_t)r * pieces;
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

  // the code of the piece at which the sum passes what is wanted, by one warp
  __device__ void search_piece(int r, int code, int n_codes, float largest) const {
    const float* const row = logits + r * room.piece;
    const int lane = threadIdx.x % WARP, each = (n_codes + WARP - 1) / WARP;
    const int begin = min(lane * each, n_codes), end = min(begin + each, n_codes);
    const auto weight = [&](int i) { return exp2f((row[i] - largest) * z.sharpness); };
    double own = 0;
    for (int i = begin; i < end; ++i) own += weight(i);
    double upto = own;  // and all lanes before
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
      const double other = __shfl_up_sync(ALL_LANES, upto, step);
      if (lane >= step) upto += other;
    }
    const double rest = wanted[r].rest;
    unsigned there = __ballot_sync(ALL_LANES, upto > rest);
    const unsigned any = __ballot_sync(ALL_LANES, own > 0);
    const bool beyond = there == 0;  // by rounding: then the last code that weighs anything
    const int winner = beyond ? 31 - __clz((int)any) : __ffs((int)there) - 1;
    if (lane == winner) {
      int found = begin;
      double sum = upto - own;
      for (int i = begin; i < end; ++i) {
        const float more = weight(i);
        if (more > 0) found = i;
        sum += more;
        if (!beyond && more > 0 && sum > rest) break;
      }
      drawn[r] = code + found;
      logp[r] = (float)((double)row[found] - wanted[r].largest - log(wanted[r].total));
    }
  }

  // a code for every row, and its log-probability at temperature 1
  __device__ void draw(int count, int step) const {
    const int rows = room.n * count, pieces = (int)ceil_div(z.K, room.piece);
    for (int c = 0; c < pieces; ++c) {
      piece_of_logits(rows, c * room.piece);
      each_warp(rows, [&](int r) {
        sum_piece(r, min(room.piece, z.K - c * room.piece), sums[(int64_t)r * pieces + c]);
      });
      __syncthreads();
    }
    for (int r = threadIdx.x; r < rows; r += BLOCK_THREADS) {
      const int64_t b = sequence(r / count);
      const uint32_t n = (uint32_t)place[r / count * z.N + r % count];
      const PhiloxWords words = philox_at((uint64_t)request.seed[b], request.index[b], n, 0,
                                          (uint32_t)step, (uint32_t)z.band);
      choose_piece(r, uniform(words.word[0], words.word[1]), pieces);
      confidence[r] = uniform(words.word[2], words.word[3]);  // its noise, for now
    }
    __syncthreads();
    for (int c = 0; c < pieces; ++c) {
      piece_of_logits(rows, c * room.piece);
      each_warp(rows, [&](int r) {
        if (wanted[r].piece != c) return;  // the whole warp
        const float largest = sums[(int64_t)r * pieces + c].largest;
        search_piece(r, c * room.piece, min(room.piece, z.K - c * room.piece), largest);
      });
      __syncthreads();
    }
  }

  // keep what was drawn but for the `again` least confident places of every sequence
  __device__ void remask(int count, int again, double noise) const {
    const int rows = room.n * count, lane = threadIdx.x % WARP;
    for (int r = threadIdx.x; r < rows; r += BLOCK_THREADS) {
      const double c = logp[r] - noise * log(-log(confidence[r]));
      confidence[r] = c == c ? c : -INFINITY;
    }
    __syncthreads();
    each_warp(room.n, [&](int g) {
      const double* const row = confidence + g * count;
      int* const places = place + g * z.N;
      int kept = 0;  // of those masked again, so far
      bool wrong = false;
      for (int j0 = 0; j0 < count; j0 += WARP) {
        const int j = j0 + lane;
        int lower = 0;  // than j in confidence; on a tie the lower position stays
        for (int i = 0; i < count && j < count; ++i)
          lower += row[i] < row[j] || (row[i] == row[j] && i > j);
        const bool masked = j < count && lower < again;
        const int at = j < count ? places[j] : 0;
        if (j < count && !masked) ids[g * z.N + at] = drawn[g * count + j];
        wrong |= j < count && !(fabsf(logp[g * count + j]) < INFINITY);
        const unsigned all = __ballot_sync(ALL_LANES, masked);  // all have read their places
        if (masked) places[kept + __popc(all & ((1u << lane) - 1))] = at;
        kept += __popc(all);
      }
      if (__any_sync(ALL_LANES, wrong)) invalid[g] = true;
    });
    __syncthreads();
  }

  __device__ void run(const DecodePlan& plan) const {
    for (int i = threadIdx.x; i < room.n * z.N; i += BLOCK_THREADS)
      ids[i] = z.K, place[i] = i % z.N;
    for (int g = threadIdx.x; g < room.n; g += BLOCK_THREADS) invalid[g] = false;
    __syncthreads();
    int count = z.N;
    for (int step = 0; step < plan.n_steps && count > 0; ++step) {
      const bool known = step == 0 && w.first;
      if (!known) {
        embed();
        for (int l = 0; l < z.n_layers; ++l) tile.block(w.layer[l]);
      }
      hidden(count, known);
      draw(count, step);
      remask(count, plan.left[step], plan.noise[step]);
      count = plan.left[step];
    }
    for (int i = threadIdx.x; i < room.n * z.N; i += BLOCK_THREADS)
      if (first + i / z.N < request.B) request.ids[first * z.N + i] = ids[i];
    for (int g = threadIdx.x; g < room.n; g += BLOCK_THREADS)
      if (first + g < request.B && invalid[g]) request.invalid[first + g] = 1;
  }
};

template <typename T>
__global__ void __launch_bounds__(BLOCK_THREADS, 1)
    decode_kernel(const __grid_constant__ DecodeWeights<T> weights,
                  const __grid_constant__ DecodeSizes sizes,
                  const __grid_constant__ DecodeRoom room,
                  const __grid_constant__ DecodeRequest request,
                  const __grid_constant__ DecodePlan plan) {
  const Decoder<T> decoder(&shared<char>(), weights, sizes, room, request);
  decoder.run(plan);
}

template <typename T>
BlockWeights<T> layer_of(const void* const (&at)[LAYER_TENSORS]) {
  const auto f = [&](int i) { return (const float*)at[i]; };
  const auto m = [&](int i) { return (const T*)at[i]; };
  return {f(0),  f(1),  f(3),  f(4), f(5), f(7),  f(8), f(9),
          f(10), f(12), f(13), m(2), m(6), m(11), m(14)};
}

template <typename T>
void start(const Launch& on, const DecodeTables& tables, const DecodeSizes& sizes,
           const DecodeRequest& request, const DecodePlan& plan) {
  DecodeWeights<T> w{};
  for (int l = 0; l < sizes.n_layers; ++l) w.layer[l] = layer_of<T>(tables.layer[l]);
  w.tokens = (const T*)tables.tokens, w.first = (const T*)tables.first;
  w.head_in = (const T*)tables.head_in, w.head = (const T*)tables.head;
  w.places = tables.places, w.classes = tables.classes;
  w.head_in_bias = tables.head_in_bias, w.head_gain = tables.head_gain;
  w.head_shift = tables.head_shift, w.head_bias = tables.head_bias;
  const int n = together(request.B, most_sequences(sizes), on.device);
  const DecodeRoom room = decode_room(sizes, n);
  launch(on, decode_kernel<T>, ceil_div(request.B, room.n), BLOCK_THREADS, room.n_bytes, w, sizes,
         room, request, plan);
}

}  // namespace

int64_t decode_shared(const DecodeSizes& sizes) {
  const BlockSizes& z = sizes.block;
  if (z.T >= MOST_ROWS || most_sequences(sizes) == 0) return INT64_MAX;
  const DecodeRoom room = decode_room(sizes, most_sequences(sizes));
  // what is known of the pieces has to fit in front of the head's input
  const int64_t rows = (int64_t)room.n * sizes.N, pieces = n_pieces(sizes, room.piece);
  const int64_t sums = rows * pieces * (int64_t)sizeof(PieceSums);
  return sums <= room.block.mixed - room.block.a ? room.n_bytes : INT64_MAX;
}

void decode(const Launch& on, const DecodeTables& tables, const DecodeSizes& sizes,
            const DecodeRequest& request, const DecodePlan& plan) {
  if (request.B == 0) return;
  if (on.dtype == Dtype::bfloat16) return start<BFloat16>(on, tables, sizes, request, plan);
  start<Half>(on, tables, sizes, request, plan);
}

}  // namespace tsgen::cuda
