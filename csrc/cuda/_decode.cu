// One band's whole decoding loop in one kernel: embedding, layers, head, draws and masks of every
// step. A CTA takes whole sequences, which need nothing of each other, so nothing waits for others,
// and nothing but ids reaches the device's memory.
//
// This is the one for wide layers, on block.cuh; _decode_narrow.cu is the faster one. The head goes
// over the codes twice, a piece of them at a time: for the sums, then for the piece that u falls
// into.
#include "cuda/decode_weights.cuh"
#include "cuda/draws.cuh"
#include "ops_cuda.h"

namespace tsgen::cuda {
namespace {

// Where a CTA keeps what the block does not know of, in bytes; the pieces of logits stand where x
// was, what is known of each piece where the block had a, q and k.
struct DecodeRoom {
  BlockRoom block;
  int n;      // sequences of a CTA; each goes through twice where there is guidance
  int piece;  // codes
  DrawRoom draws;
};

// How many sequences fit.
int most_sequences(const DecodeSizes& z) { return MOST_ROWS / z.block.T / (z.guided ? 2 : 1); }

DecodeRoom decode_room(const DecodeSizes& z, int n) {
  DecodeRoom room;
  room.block = block_room(z.block, z.guided ? 2 * n : n);
  room.n = n;
  room.piece = z.block.D < 64 ? z.block.D : z.block.D / 64 * 64;
  room.draws = draw_room(room.block.n_bytes, n, z.N);
  return room;
}

template <typename T>
struct Decoder {
  const DecodeWeights<T>& w;
  const DecodeSizes& z;
  const DecodeRoom& room;
  const DecodeRequest& request;
  BlockTile<T> tile;
  Draws draws;
  Rows<T> h;  // the head's input, later its last layer's: where attention's result was
  float* logits;
  PieceSums* sums;

  __device__ Decoder(char* shared, const DecodeWeights<T>& weights, const DecodeSizes& sizes,
                     const DecodeRoom& where, const DecodeRequest& asked)
      : w(weights),
        z(sizes),
        room(where),
        request(asked),
        tile(shared, sizes.block, where.block),
        draws(shared, where.draws, sizes, asked, where.n),
        h{(T*)(shared + where.block.mixed), round_up(sizes.block.D, K_STEP)},
        logits((float*)shared),
        sums((PieceSums*)(shared + where.block.a)) {}

  __device__ int passes() const { return z.guided ? 2 : 1; }

  // x = the embeddings of all tokens, the class first
  __device__ void embed() const {
    each_warp(room.block.M, [&](int m) {
      embed_row(w, draws, z.block.D, m, [&](int i, float y) { tile.x.at(m, i) = y; });
    });
    __syncthreads();
  }

  // h = the head's last layer's input at the masked places, row g count + j: the j-th one of g
  __device__ void hidden(int count, bool known) const {
    const int D = z.block.D, rows = room.n * count, all = passes() * rows;
    if (known) {
      each_warp(all, [&](int r) {
        const int g = r / count % room.n, at = draws.place[g * z.N + r % count];
        const T* const from = w.first + (draws.class_of(r / rows, g) * z.N + at) * D;
        for (int i = threadIdx.x % WARP; i < h.width; i += WARP)
          *h.at(r, i) = i < D ? from[i] : store<T>(0);
      });
      __syncthreads();
    } else {
      each_warp(all, [&](int r) {
        const int g = r / count % room.n, at = draws.place[g * z.N + r % count];
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
    const double rest = draws.wanted[r].rest;
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
      draws.draw(r, code + found, row[found]);
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
    draws.choose(sums, pieces, count, step);
    for (int c = 0; c < pieces; ++c) {
      piece_of_logits(rows, c * room.piece);
      each_warp(rows, [&](int r) {
        if (draws.wanted[r].piece != c) return;  // the whole warp
        const float largest = sums[(int64_t)r * pieces + c].largest;
        search_piece(r, c * room.piece, min(room.piece, z.K - c * room.piece), largest);
      });
      __syncthreads();
    }
  }

  __device__ void run(const DecodePlan& plan) const {
    draws.begin();
    int count = z.N;
    for (int step = 0; step < plan.n_steps && count > 0; ++step) {
      const bool known = step == 0 && w.first;
      if (!known) {
        embed();
        for (int l = 0; l < z.n_layers; ++l) tile.block(w.layer[l]);
      }
      hidden(count, known);
      draw(count, step);
      draws.remask(count, plan.left[step], plan.noise[step]);
      count = plan.left[step];
    }
    draws.end();
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
void start(const Launch& on, const DecodeTables& tables, const DecodeSizes& sizes,
           const DecodeRequest& request, const DecodePlan& plan) {
  const int n = together(request.B, most_sequences(sizes), on.device);
  const DecodeRoom room = decode_room(sizes, n);
  launch(on, decode_kernel<T>, ceil_div(request.B, room.n), BLOCK_THREADS, room.draws.end,
         weights_of<T>(tables, sizes.n_layers), sizes, room, request, plan);
}

// What the kernel here needs, and the narrow one; INT64_MAX for what it does not take.
int64_t wide_shared(const DecodeSizes& sizes) {
  if (sizes.block.T >= MOST_ROWS || most_sequences(sizes) == 0) return INT64_MAX;
  const DecodeRoom room = decode_room(sizes, most_sequences(sizes));
  // what is known of the pieces has to fit in front of the head's input
  const int64_t rows = (int64_t)room.n * sizes.N, pieces = ceil_div(sizes.K, room.piece);
  const int64_t sums = rows * pieces * (int64_t)sizeof(PieceSums);
  return sums <= room.block.mixed - room.block.a ? room.draws.end : INT64_MAX;
}

int64_t narrow_shared(const DecodeSizes& sizes) {
  return is_narrow(sizes.block) ? decode_narrow_shared(sizes) : INT64_MAX;
}

}  // namespace

int64_t decode_shared(const DecodeSizes& sizes) {
  return std::min(wide_shared(sizes), narrow_shared(sizes));
}

void decode(const Launch& on, const DecodeTables& tables, const DecodeSizes& sizes,
            const DecodeRequest& request, const DecodePlan& plan) {
  if (request.B == 0) return;
  if (narrow_shared(sizes) <= most_shared(on.device))
    return decode_narrow(on, tables, sizes, request, plan);
  if (on.dtype == Dtype::bfloat16) return start<BFloat16>(on, tables, sizes, request, plan);
  start<Half>(on, tables, sizes, request, plan);
}

}  // namespace tsgen::cuda
