// Kernels that are right, and kernels that are not, for tests/test_cuda_on_cpu.py: run by number.
#include <cstdio>
#include <cstdlib>

#include "cuda/machine/panels.cuh"
#include "cuda/machine/reduce.cuh"

using namespace tsgen::cuda;

constexpr int N = 96;  // threads: three warps
float result[N];

template <bool with_barrier>
__global__ void turn_round() {
  float* const room = &shared<float>();
  room[threadIdx.x] = threadIdx.x;
  if (with_barrier) __syncthreads();
  result[threadIdx.x] = room[N - 1 - threadIdx.x];
}

__global__ void sum_block() {
  __shared__ float room[N / WARP];
  result[threadIdx.x] = over_block((float)threadIdx.x, room, Sum());
}

__global__ void barrier_for_some() {
  if (threadIdx.x < 40) __syncthreads();
}

__global__ void shuffle_for_some() {
  if (threadIdx.x % 2) result[threadIdx.x] = __shfl_sync(ALL_LANES, 1.0f, 0);
}

__global__ void shuffle_among_some() {
  const unsigned odd = 0xaaaaaaaa;
  float x = threadIdx.x;
  if (threadIdx.x % 2)
    for (int i = 0; i < 3; ++i) x = __shfl_sync(odd, x + 1, threadIdx.x % WARP);
  result[threadIdx.x] = __shfl_xor_sync(ALL_LANES, x, 1);
}

template <bool waited>
__global__ void copy() {
  static const float from[4] = {1, 2, 3, 4};
  float4* const to = &shared<float4>();
  copy_16(to + threadIdx.x, from, true);
  end_copies();
  if (waited) wait_for_copies<0>();
  result[threadIdx.x] = to[threadIdx.x].w;
  wait_for_copies<0>();
}

__global__ void never_waited() {
  static const float from[4] = {};
  copy_16(&shared<float4>() + threadIdx.x, from, true);
}

__global__ void beyond_the_end() { (&shared<float>())[threadIdx.x + 1] = 0; }

// c[r, n] = sum over k of (r + k) (k - n), by tensor cores, of 16 x 16 and 16 x 8
__global__ void product() {
  const int lane = threadIdx.x % WARP;
  const auto of_a = [=](int r, int k) { return pack<Half>(r + k, r + k + 1); };
  const auto of_b = [=](int k, int n) { return pack<Half>(k - n, k + 1 - n); };
  const int r = lane / 4, k = lane % 4 * 2;
  const FragmentA a{of_a(r, k), of_a(r + 8, k), of_a(r, k + 8), of_a(r + 8, k + 8)};
  const FragmentB b{of_b(k, r), of_b(k + 8, r)};
  FragmentC c{};
  multiply_add<Half>(c, a, b);
  float wrong = 0;
  for (int i = 0; i < 4; ++i) {
    const int row = r + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    float sum = 0;
    for (int j = 0; j < 16; ++j) sum += (row + j) * (j - column);
    wrong += c.at[i] != sum;
  }
  result[threadIdx.x] = wrong;
}

// c[r, n] = sum over k of a[r, k] w[n, k], w in panels of 64 and 6 rows whose 85 numbers end within
// a piece, by as many threads as copy
struct TwoPanels {
  const Half* w;
  int i = 0;

  PanelSource<Half> next() {
    const int first = 64 * i++;
    if (first > 64) return {};
    return {w + first * 88, 88, first ? 6 : 64, 85};
  }
};

__global__ void panels() {
  static const auto of_w = [](int n, int k) { return k < 85 ? (3 * n + 5 * k) % 7 - 3 : NAN; };
  static const auto of_a = [](int r, int k) { return k < 85 ? (r + 2 * k) % 5 - 2 : 0; };
  static Half w[70 * 88];
  for (int i = 0; i < 70 * 88; ++i) w[i] = store<Half>(of_w(i / 88, i % 88));
  FragmentA a[8] = {};
  const int lane = threadIdx.x % WARP, row = lane / 4, pair = lane % 4 * 2;
  for (int i = 0; i < 32; ++i) {
    const int r = row + i % 2 * 8, k = i / 4 * 16 + i / 2 % 2 * 8 + pair;
    a[i / 4].word[i % 4] = pack<Half>(of_a(r, k), of_a(r, k + 1));
  }
  PanelRing<Half, TwoPanels> ring(&shared<Half>(), MOST_DEPTH, {w});
  ring.start();
  float wrong = 0;
  for (int first = 0; first < 70; first += 64) {
    FragmentC c[8] = {};
    multiply<Half>(c, a, ring.take(), first ? 6 : 64, 85);
    for (int i = 0; i < 32; ++i) {
      const int r = row + i / 2 % 2 * 8, n = i / 4 * 8 + pair + i % 2;
      float sum = 0;
      for (int k = 0; k < 85 && first + n < 70; ++k) sum += of_a(r, k) * of_w(first + n, k);
      wrong += c[i / 4].at[i % 4] != sum;
    }
  }
  ring.stop();
  if (threadIdx.x < N) result[threadIdx.x] = wrong;
}

int main(int, char** argv) {
  void (*const kernels[])() = {turn_round<true>, turn_round<false>,  sum_block,  barrier_for_some,
                               shuffle_for_some, shuffle_among_some, copy<true>, copy<false>,
                               never_waited,     beyond_the_end,     product,    panels};
  const int i = std::atoi(argv[1]), n_bytes = (i == 9 ? N : 4 * N) * (int)sizeof(float);
  if (kernels[i] == panels)
    launch({}, panels, 2, PANEL_THREADS, ring_bytes(MOST_DEPTH));
  else
    launch({}, kernels[i], 2, N, n_bytes);
  for (const float x : result) std::printf("%g ", x);
}
