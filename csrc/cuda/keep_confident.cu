// The least confident positions: a row in the registers of a few lanes, no sort.
//
// Confidences become integers of the same order; the largest of which at most n_masked are smaller
// is found bit by bit. It mostly ends early, at the first that tells n_masked from the others. Of
// those equal to it the last positions are taken.
#include "cuda/machine/launch.cuh"
#include "ops_cuda.h"

namespace tsgen::cuda {
namespace {

constexpr int THREADS = 128;

template <typename Key, typename Float>
__device__ __forceinline__ Key key_of(Float x) {
  constexpr Key sign = (Key)1 << (8 * sizeof(Key) - 1);
  if (x != x) x = -INFINITY;
  x += 0;  // -0 is 0
  Key bits;
  memcpy(&bits, &x, sizeof bits);
  return bits & sign ? ~bits : bits | sign;
}

// KEYS: how many a lane holds; 0 reads them again for every bit, in rows of any length
template <typename Float, typename Key, int LANES, int KEYS>
__global__ void __launch_bounds__(THREADS) keep_confident_kernel(const Float* confidence,  // (B, N)
                                                                 const int64_t* n_masked,  // (B)
                                                                 uint8_t* masked,          // (B, N)
                                                                 int64_t B, int N) {
  const int lane = threadIdx.x % LANES, shift = threadIdx.x % WARP / LANES * LANES;
  const unsigned group = (unsigned)((1ull << LANES) - 1);
  const int64_t b = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / LANES;
  const int length = b < B ? N : 0, n_keys = KEYS ? KEYS : (int)ceil_div(N, LANES);
  const int wanted = b < B ? (int)n_masked[b] : 0;
  const Float* const row = confidence + b * N;
  // where there is no position, a key that is below nothing
  const auto read = [&](int i) {
    const int n = i * LANES + lane;
    return n < length ? key_of<Key>(row[n]) : ~(Key)0;
  };
  Key held[KEYS ? KEYS : 1];
#pragma unroll
  for (int i = 0; i < KEYS; ++i) held[i] = read(i);
  const auto key = [&](int i) { return KEYS ? held[KEYS ? i : 0] : read(i); };
  const auto lanes_that = [&](bool yes) { return __ballot_sync(ALL_LANES, yes) >> shift & group; };

  Key bound = 0;
  int below = 0;
  for (Key bit = (Key)1 << (8 * sizeof(Key) - 1); bit != 0; bit >>= 1) {
    const Key higher = bound | bit;
    int count = 0;
#pragma unroll
    for (int i = 0; i < n_keys; ++i) count += __popc(lanes_that(key(i) < higher));
    if (below < wanted && count <= wanted) bound = higher, below = count;
    if (__all_sync(ALL_LANES, below == wanted)) break;
  }
  int missing = wanted - below;  // taken from the equal ones, the last first
#pragma unroll
  for (int i = n_keys - 1; i >= 0; --i) {
    const int n = i * LANES + lane;
    const bool equal = n < length && key(i) == bound;
    const unsigned equals = lanes_that(equal);
    const bool one_of_the_last = equal && __popc(equals >> lane >> 1) < missing;
    if (n < length) masked[b * N + n] = key(i) < bound || one_of_the_last;
    missing -= __popc(equals);
  }
}

template <typename Float, typename Key>
void start(const Launch& on, const Float* confidence, const int64_t* n_masked, uint8_t* masked,
           int64_t B, int64_t N) {
  const auto with = [&](auto* kernel, int lanes) {
    launch(on, kernel, ceil_div(B * lanes, THREADS), THREADS, 0, confidence, n_masked, masked, B,
           (int)N);
  };
  if (N <= 8) return with(keep_confident_kernel<Float, Key, 8, 1>, 8);
  if (N <= 32) return with(keep_confident_kernel<Float, Key, 32, 1>, 32);
  if (N <= 64) return with(keep_confident_kernel<Float, Key, 32, 2>, 32);
  if (N <= 128) return with(keep_confident_kernel<Float, Key, 32, 4>, 32);
  if (N <= 256) return with(keep_confident_kernel<Float, Key, 32, 8>, 32);
  if (N <= 1024) return with(keep_confident_kernel<Float, Key, 32, 32>, 32);
  with(keep_confident_kernel<Float, Key, 32, 0>, 32);
}

}  // namespace

void keep_confident(const Launch& on, const void* confidence, const int64_t* n_masked,
                    uint8_t* masked, int64_t B, int64_t N, int64_t n_bytes) {
  if (B * N == 0) return;
  if (n_bytes == sizeof(double))
    start<double, uint64_t>(on, (const double*)confidence, n_masked, masked, B, N);
  else
    start<float, uint32_t>(on, (const float*)confidence, n_masked, masked, B, N);
}

}  // namespace tsgen::cuda
