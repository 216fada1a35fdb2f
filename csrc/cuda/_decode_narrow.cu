// One band's whole decoding loop in one kernel, for layers up to 128 wide: see narrow.cuh for them,
// draws.cuh for the law, _decode.cu for wider ones.
//
// From the last layer's queries on only masked places go on, in rows packed anew. The head is a
// product of all rows for the sums of each piece of the codes; then rows are put in the order of
// the pieces that their u fell into, so that a warp needs few of those once more.
#include "cuda/decode_room.cuh"
#include "cuda/decode_weights.cuh"
#include "cuda/narrow.cuh"
#include "ops_cuda.h"

namespace tsgen::cuda {
namespace {

constexpr int NOT_FOUND = PANEL_ROWS;

template <typename T, bool full>
struct Decoder {
  const DecodeWeights<T>& w;
  const DecodeSizes& z;
  const DecodeRoom& room;
  const DecodeRequest& request;
  const DecodePlan& plan;
  NarrowTile<T, full> tile;
  char* shared;
  PanelRing<T, DecodePanels<T>> panels;

  __device__ Decoder(char* memory, const DecodeWeights<T>& weights, const DecodeSizes& sizes,
                     const DecodeRoom& where, const DecodeRequest& asked, const DecodePlan& steps)
      : w(weights),
        z(sizes),
        room(where),
        request(asked),
        plan(steps),
        tile(memory, sizes.block, where.layers),
        shared(memory),
        panels((T*)memory, where.layers.depth,
               {where, memory,
                n_steps() * DecodePanels<T>::STEP + (weights.first ? where.first_head : 0)}) {}

  __device__ Draws draws() const {
    return Draws(shared + not_yet(), room.draws, z, request, room.n);
  }
  __device__ PieceSums* sums() const { return (PieceSums*)(shared + not_yet() + room.sums); }
  __device__ int* order() const { return (int*)(shared + not_yet() + room.order); }  // of rows

  // h (rows, D), the head's last layer's input: each warp's rows are those that it last computed
  __device__ T& h(int r, int d) const { return *tile.a.at(r, d); }

  __device__ void fill_table() const {
    const LayerPanels<T> layer{z.block};
    const int D = z.block.D, n_layers = z.n_layers * room.each;
    PanelSource<T>* const table = (PanelSource<T>*)(shared + room.table);
    for (int i = threadIdx.x; i < room.n_panels; i += blockDim.x)
      table[i] = i < n_layers          ? layer.at(w.layer[i / room.each], i % room.each)
                 : i < room.first_head ? layer.part(w.head_in, i - n_layers, D, D, D)
                                       : layer.part(w.head, i - room.first_head, z.K, D, D);
    __syncthreads();
  }

  __device__ static int row_of_warp() { return thread_now() / WARP * TILE; }

  // Masked places before a step.
  __device__ int count_at(int step) const { return step == 0 ? z.N : plan.left[step - 1]; }

  // Until nothing is masked.
  __device__ int n_steps() const {
    int n = 0;
    while (n < plan.n_steps && count_at(n) > 0) ++n;
    return n;
  }

  // This warp's part of the rows of masked places, `count` of each of n sequences.
  __device__ Owned masked(int n, int count) const { return {row_of_warp(), n * count, count}; }

  // x = the embeddings of all tokens, the class first
  __device__ void embed() const {
    const Draws draws = this->draws();
    for (int m = threadIdx.x / WARP; m < room.layers.G * z.block.T; m += NARROW_WARPS)
      embed_row(w, draws, tile.D(), m,
                [&](int i, float y) { tile.x[m * tile.D() + (i ^ tile.twist(m))] = y; });
    __syncthreads();
  }

  // h at the masked places, by all layers
  __device__ __forceinline__ void hidden(int count) {
    embed();
    const Draws draws = this->draws();
    const Places places = tile.places(count);
    const int r = thread_now() % TILE;  // twice, by two lanes
    if (places.rows.there(r)) {
      const int s = places.rows.sequence(r);
      tile.at[places.at + r] =
          s * z.block.T + 1 + draws.place[s % room.n * z.N + places.rows.among(r)];
    }
    __syncwarp();
    for (int l = 0; l < z.n_layers; ++l)
      tile.layer(w.layer[l], panels, l + 1 < z.n_layers ? 0 : count);
    head_in(count);
  }

  // h = LN(gelu(W x + b))
  __device__ __forceinline__ void head_in(int count) {
    const int D = tile.D();
    const Places places = tile.places(count);
    if (!places.rows.there(0)) return tile.skip(panels, LayerPanels<T>{z.block}.of_width(D));
    Packed y;
    Wide wide;
    tile.read(places, wide);
    as_factor<T>(wide, y);
    tile.product(y, D, panels, D, wide);
    tile.template each_pair<WIDTH>(D, [&](int j, int column) {
#pragma unroll
      for (int i = 0; i < 4; ++i) wide[j].at[i] += w.head_in_bias[column + i % 2];
    });
    gelu_all(wide, D);
    normalise(wide, D, w.head_gain, w.head_shift, z.block.eps);
    as_factor<T>(wide, y);
    tile.keep(y);
  }

  // h of the first step: with everything masked and no context a sample is its class
  __device__ void hidden_known() const {
    const Draws draws = this->draws();
    const int D = z.block.D, rows = room.n * z.N, width = round_up(D, 64);
    for (int i = threadIdx.x; i < room.layers.G * z.N * width; i += blockDim.x) {
      const int r = i / width, d = i % width, g = r / z.N % room.n;
      const int64_t of = draws.class_of(r / rows, g) * z.N + r % z.N;
      h(r, d) = d < D ? w.first[of * D + d] : store<T>(0);
    }
  }

  // h of both passes: the head is linear
  __device__ void guide(int rows) const {
    for (int i = threadIdx.x; i < rows * z.block.D; i += blockDim.x) {
      const int r = i / z.block.D, d = i % z.block.D;
      const float with = load(h(r, d)), without = load(h(rows + r, d));
      h(r, d) = store<T>(without + z.guidance * (with - without));
    }
    __syncthreads();
  }

  // c = logits of a panel's codes for 16 rows, -infinity behind the last code
  __device__ __forceinline__ void logits(const Packed& a, const Slabs<T>& panel, int code,
                                         Narrow& c) const {
    const int first = code + tile_pair(), left = z.K - first;
    const float* const bias = w.head_bias + first;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        c[j].at[e] = c[j].at[2 + e] = 8 * j + e < left ? bias[8 * j + e] : -INFINITY;
    multiply<T>(c, a, panel, z.K - code, tile.D());
  }

  // Sums of a row's logits, those with 2 i and 2 i + 1, in all four lanes that have them.
  __device__ __forceinline__ PieceSums sums_of(const Narrow& c, int i) const {
    float largest = -INFINITY, tempered = 0, plain = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) largest = fmaxf(largest, fmaxf(c[j].at[2 * i], c[j].at[2 * i + 1]));
    largest = over_lanes<4>(largest, Max());
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float below = c[j].at[2 * i + e] - largest;
        const float y = exp2_fast(below * LOG2_E);
        plain += y;
        tempered += z.sharpness == LOG2_E ? y : exp2_fast(below * z.sharpness);
      }
    return {largest, over_lanes<4>(tempered, Sum()), over_lanes<4>(plain, Sum())};
  }

  // Sums of two parts of a piece.
  __device__ PieceSums added(const PieceSums& a, const PieceSums& b) const {
    const float largest = fmaxf(a.largest, b.largest);
    const float from_a = a.largest - largest, from_b = b.largest - largest;
    return {
        largest,
        a.tempered * exp2_fast(from_a * z.sharpness) + b.tempered * exp2_fast(from_b * z.sharpness),
        a.plain * exp2_fast(from_a * LOG2_E) + b.plain * exp2_fast(from_b * LOG2_E)};
  }

  // sums (rows, pieces)
  __device__ void sum_pieces(int count) {
    PieceSums* const sums = this->sums();
    const Owned rows = masked(room.n, count);
    Packed a;
    tile.kept(a);
    for (int code = 0, panel = 0; code < z.K; code += PANEL_ROWS, ++panel) {
      const Slabs<T> weights = panels.take();
      if (!rows.there(0)) continue;
      Narrow c;
      logits(a, weights, code, c);
      PieceSums found[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) found[i] = sums_of(c, i);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int r = tile_row() + 8 * i;
        if (!rows.there(r) || thread_now() % 4 != 0) continue;
        PieceSums& to = sums[(rows.first + r) * room.pieces + panel / room.piece];
        to = panel % room.piece ? added(to, found[i]) : found[i];
      }
    }
    __syncthreads();
  }

  // order = the rows, those first whose piece is
  __device__ void sort_rows(int rows) const {
    const Draws draws = this->draws();
    int* const order = this->order();
    for (int r = threadIdx.x; r < rows; r += blockDim.x) {
      const int piece = draws.wanted[r].piece;
      int before = 0;
#pragma unroll 4
      for (int i = 0; i < rows; ++i) {
        const int other = draws.wanted[i].piece;
        before += other < piece || (other == piece && i < r);
      }
      order[before] = r;
    }
    __syncthreads();
  }

  // the codes at which the sums pass what is wanted
  __device__ void search(int count) {
    const Draws draws = this->draws();
    const PieceSums* const sums = this->sums();
    const int* const order = this->order();
    const Owned rows = masked(room.n, count);
    const int last = rows.n - 1;
    Packed a;
    load_rows(a, tile.a, order[min(rows.first + (int)(thread_now() % 16), last)], tile.D());
    int mine[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) mine[i] = order[min(rows.first + tile_row() + 8 * i, last)];
    for (int code = 0, panel = 0; code < z.K; code += PANEL_ROWS, ++panel) {
      const Slabs<T> weights = panels.take();
      const int piece = panel / room.piece;
      bool wants[2];
#pragma unroll
      for (int i = 0; i < 2; ++i)
        wants[i] = rows.there(tile_row() + 8 * i) && draws.wanted[mine[i]].piece == piece;
      if (!__any_sync(ALL_LANES, wants[0] || wants[1])) continue;
      Narrow c;
      logits(a, weights, code, c);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float largest = wants[i] ? sums[mine[i] * room.pieces + piece].largest : 0;
        search_panel(draws, c, i, code, mine[i], largest, wants[i]);
      }
    }
    __syncthreads();
  }

  // Row r, whose logits are those with 2 i and 2 i + 1 in the warp's four lanes, looks for its
  // code. By rounding its sum may not be reached: then it is the last code that weighs anything.
  __device__ __forceinline__ void search_panel(const Draws& draws, const Narrow& c, int i, int code,
                                               int r, float largest, bool wants) const {
    const double rest = draws.wanted[r].rest;
    const int pair = tile_pair();
    double before = 0;
    int found = NOT_FOUND, heavy = -1;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float weight[2];
#pragma unroll
      for (int e = 0; e < 2; ++e)
        weight[e] = exp2_fast((c[j].at[2 * i + e] - largest) * z.sharpness);
      double upto = (double)weight[0] + weight[1];  // and the lanes before
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {
        const double other = __shfl_up_sync(ALL_LANES, upto, step, 4);
        if ((int)(thread_now() % 4) >= step) upto += other;
      }
      const double passed[2] = {before + (upto - weight[1]), before + upto};
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int at = 8 * j + e + pair;
        if (!(weight[e] > 0)) continue;
        heavy = at;
        if (passed[e] > rest) found = min(found, at);
      }
      before += __shfl_sync(ALL_LANES, upto, 3, 4);
    }
    found = over_lanes<4>(found, Min()), heavy = over_lanes<4>(heavy, Max());
    if (!wants) return;
    const int at = found == NOT_FOUND ? heavy : found;
    float logit = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (8 * j + e == at - pair) logit = c[j].at[2 * i + e];
    if (at >= 0 && at / 2 % 4 == (int)(thread_now() % 4)) draws.draw(r, code + at, logit);
    if (thread_now() % 4 != 0) return;
    if (found == NOT_FOUND)
      draws.wanted[r].rest = rest - before;
    else
      draws.wanted[r].piece = -1;
  }

  __device__ void run() {
    fill_table();
    panels.start();
    draws().begin();
    tile.attention.clear_keys();
    int count = z.N;
    for (int step = 0; step < plan.n_steps && count > 0; ++step) {
      if (step == 0 && w.first)
        hidden_known();
      else
        hidden(count);
      __syncthreads();
      if (z.guided) guide(room.n * count);
      sum_pieces(count);
      draws().choose(sums(), room.pieces, count, step);
      sort_rows(room.n * count);
      search(count);
      draws().remask(count, plan.left[step], plan.noise[step]);
      count = plan.left[step];
    }
    panels.stop();
    draws().end();
  }
};

template <typename T, bool full>
__global__ void __launch_bounds__(NARROW_THREADS, 1)
    decode_narrow_kernel(const __grid_constant__ DecodeWeights<T> weights,
                         const __grid_constant__ DecodeSizes sizes,
                         const __grid_constant__ DecodeRoom room,
                         const __grid_constant__ DecodeRequest request,
                         const __grid_constant__ DecodePlan plan) {
  Decoder<T, full> decoder(&shared<char>(), weights, sizes, room, request, plan);
  decoder.run();
}

template <typename T>
void start(const Launch& on, const DecodeTables& tables, const DecodeSizes& sizes,
           const DecodeRequest& request, const DecodePlan& plan) {
  const int fit = most_sequences(sizes, most_shared(on.device));
  const DecodeRoom room = decode_room(sizes, together(request.B, fit, on.device));
  const auto kernel =
      sizes.block.D == WIDTH ? decode_narrow_kernel<T, true> : decode_narrow_kernel<T, false>;
  launch(on, kernel, ceil_div(request.B, room.n), NARROW_THREADS, room.draws.end,
         weights_of<T>(tables, sizes.n_layers), sizes, room, request, plan);
}

}  // namespace

int64_t decode_narrow_shared(const DecodeSizes& sizes) {
  return most_sequences(sizes, INT64_MAX) ? decode_room(sizes, 1).draws.end : INT64_MAX;
}

void decode_narrow(const Launch& on, const DecodeTables& tables, const DecodeSizes& sizes,
                   const DecodeRequest& request, const DecodePlan& plan) {
  if (on.dtype == Dtype::bfloat16) return start<BFloat16>(on, tables, sizes, request, plan);
  start<Half>(on, tables, sizes, request, plan);
}

}  // namespace tsgen::cuda
