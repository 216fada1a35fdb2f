// The random words of many samples and positions: a thread makes and stores one draw.
#include "cuda/machine/numbers.cuh"
#include "ops_cuda.h"
#include "philox.h"

namespace tsgen::cuda {
namespace {

constexpr int THREADS = 256;

__global__ void __launch_bounds__(THREADS)
    philox_kernel(const int64_t* sample,  // (B)
                  int64_t* words,         // (B, N, 4)
                  uint64_t key, int64_t B, int64_t N, uint32_t stream, uint32_t step,
                  uint32_t band) {
  const int lane = threadIdx.x % WARP;
  const int64_t first = (int64_t)blockIdx.x * THREADS;
  const uint32_t width = (uint32_t)N, at = (uint32_t)(first % N) + threadIdx.x;  // N <= 2^24
  const int64_t b = min(first / N + at / width, B - 1);
  const PhiloxWords draw = philox_at(key, sample[b], at % width, stream, step, band);
  auto* const to = (Pack<int64_t, 2>*)words + 2 * (first + threadIdx.x - lane);
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // neighbouring lanes store neighbouring pairs of words
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      word[i] = __shfl_sync(ALL_LANES, draw.word[i], half * (WARP / 2) + lane / 2);
    const Pack<int64_t, 2> pair{{lane % 2 ? word[2] : word[0], lane % 2 ? word[3] : word[1]}};
    const int pair_at = half * WARP + lane;
    if (2 * (first + threadIdx.x - lane) + pair_at < 2 * B * N) to[pair_at] = pair;
  }
}

}  // namespace

void philox(const Launch& on, const int64_t* sample, int64_t* words, uint64_t key, int64_t B,
            int64_t N, uint32_t stream, uint32_t step, uint32_t band) {
  if (B * N == 0) return;
  launch(on, philox_kernel, ceil_div(B * N, THREADS), THREADS, 0, sample, words, key, B, N, stream,
         step, band);
}

}  // namespace tsgen::cuda
