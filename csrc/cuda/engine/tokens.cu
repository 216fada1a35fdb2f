// What a decoding step does besides products and attention.
#include "cuda/engine/kernels.h"
#include "cuda/engine/numbers.cuh"
#include "philox.h"

namespace tsgen::cuda {
namespace {

constexpr int FIND_THREADS = 128;

// A warp goes through a sequence.
__global__ void __launch_bounds__(FIND_THREADS)
    find_masked_kernel(const int64_t* ids, int64_t mask_id, int32_t* places, int n, int N, int M) {
  const int b = (int)(blockIdx.x * (FIND_THREADS / WARP) + threadIdx.x / WARP);
  const int lane = threadIdx.x % WARP;
  if (b >= n) return;
  const int64_t* const own = ids + (int64_t)b * N;
  int32_t* const to = places + (int64_t)b * M;
  int found = 0;
  for (int first = 0; first < N; first += WARP) {
    const int i = first + lane;
    const bool masked = i < N && own[i] == mask_id;
    const unsigned all = __ballot_sync(ALL_LANES, masked);
    const int at = found + __popc(all & ((1u << lane) - 1));
    if (masked && at < M) to[at] = i;
    found += __popc(all);
  }
  for (int i = found + lane; i < M; i += WARP) to[i] = -1;
}

__global__ void __launch_bounds__(NUMBER_THREADS)
    embed_kernel(const int64_t* ids, const int64_t* class_id, const float* classes,
                 const float* tokens, const float* positions, Context context, float* x, int n,
                 int N, int D, int n_classes, int count) {
  const int i = own_number();
  if (i >= count) return;
  const int d = i % D, row = i / D, t = row % (N + 1), s = row / (N + 1), b = s % n;
  if (t == 0) {
    const int64_t class_of = s < n ? class_id[b] : n_classes;
    x[i] = classes[class_of * D + d];
    return;
  }
  const int place = t - 1;
  float sum = tokens[ids[(int64_t)b * N + place] * D + d] + positions[place * D + d];
  if (context.mapped) {
    const int64_t* const source = context.place_source + 2 * place;
    const int64_t at = (b * context.pitch + source[0]) * context.n_maps + source[1];
    sum += context.mapped[at * D + d];
  }
  x[i] = sum;
}

__global__ void __launch_bounds__(NUMBER_THREADS)
    gather_rows_kernel(const float* from, const int32_t* places, float* to, int n, int N, int M,
                       int D, int count) {
  const int i = own_number();
  if (i >= count) return;
  const int d = i % D, row = i / D, m = row % M, s = row / M;
  const int place = max(places[s % n * M + m], 0);
  to[i] = from[((int64_t)s * (N + 1) + 1 + place) * D + d];
}

__global__ void __launch_bounds__(NUMBER_THREADS)
    guide_kernel(float* rows, const float* none, float guidance, int count) {
  const int i = own_number();
  if (i < count) rows[i] = none[i] + guidance * (rows[i] - none[i]);
}

__device__ __forceinline__ PhiloxWords words_of(const DrawKeys& draws, int b, int place) {
  return philox_at(draws.seed, draws.index[b], (uint32_t)place, 0, draws.step, draws.band);
}

__global__ void __launch_bounds__(NUMBER_THREADS)
    draw_uniforms_kernel(DrawKeys draws, const int32_t* places, double* u, int M, int count) {
  const int i = own_number();
  if (i >= count) return;
  const PhiloxWords words = words_of(draws, i / M, max(places[i], 0));
  u[i] = uniform(words.word[0], words.word[1]);
}

__global__ void __launch_bounds__(NUMBER_THREADS)
    take_confidence_kernel(DrawKeys draws, const int32_t* places, const float* logp, double noise,
                           double* confidence, int32_t* invalid, int M, int count) {
  const int i = own_number();
  if (i >= count) return;
  const int place = places[i];
  double sum = INFINITY;
  if (place >= 0) {
    sum = (double)logp[i];
    if (!(sum - sum == 0)) *invalid = 1;  // whoever comes last writes the same
    if (noise != 0) {
      const PhiloxWords words = words_of(draws, i / M, place);
      sum -= noise * log(-log(uniform(words.word[2], words.word[3])));
    }
  }
  confidence[i] = sum;
}

__global__ void __launch_bounds__(NUMBER_THREADS)
    put_tokens_kernel(const int32_t* places, const int64_t* drawn, const uint8_t* masked,
                      int64_t mask_id, int64_t* ids, int N, int M, int count) {
  const int i = own_number();
  if (i < count && places[i] >= 0)
    ids[(int64_t)(i / M) * N + places[i]] = masked[i] ? mask_id : drawn[i];
}

}  // namespace

void find_masked(const Launch& on, const int64_t* ids, int64_t mask_id, int32_t* places, int64_t n,
                 int64_t N, int64_t M) {
  if (n == 0) return;
  launch(on, find_masked_kernel, ceil_div(n, FIND_THREADS / WARP), FIND_THREADS, 0, ids, mask_id,
         places, (int)n, (int)N, (int)M);
}

void embed(const Launch& on, const int64_t* ids, const int64_t* class_id, const float* classes,
           const float* tokens, const float* positions, const Context& context, float* x, int64_t n,
           int64_t S, int64_t N, int64_t D, int64_t n_classes) {
  launch_each(on, embed_kernel, S * (N + 1) * D, ids, class_id, classes, tokens, positions, context,
              x, (int)n, (int)N, (int)D, (int)n_classes);
}

void gather_rows(const Launch& on, const float* from, const int32_t* places, float* to, int64_t n,
                 int64_t S, int64_t N, int64_t M, int64_t D) {
  launch_each(on, gather_rows_kernel, S * M * D, from, places, to, (int)n, (int)N, (int)M, (int)D);
}

void guide(const Launch& on, float* rows, const float* none, float guidance, int64_t count) {
  launch_each(on, guide_kernel, count, rows, none, guidance);
}

void draw_uniforms(const Launch& on, const DrawKeys& draws, const int32_t* places, double* u,
                   int64_t n, int64_t M) {
  launch_each(on, draw_uniforms_kernel, n * M, draws, places, u, (int)M);
}

void take_confidence(const Launch& on, const DrawKeys& draws, const int32_t* places,
                     const float* logp, double noise, double* confidence, int32_t* invalid,
                     int64_t n, int64_t M) {
  launch_each(on, take_confidence_kernel, n * M, draws, places, logp, noise, confidence, invalid,
              (int)M);
}

void put_tokens(const Launch& on, const int32_t* places, const int64_t* drawn,
                const uint8_t* masked, int64_t mask_id, int64_t* ids, int64_t n, int64_t N,
                int64_t M) {
  launch_each(on, put_tokens_kernel, n * M, places, drawn, masked, mask_id, ids, (int)N, (int)M);
}

}  // namespace tsgen::cuda
