// Samples to planes: stft, and the gradient of istft.
//
// A thread transforms a frame in its registers; lanes are frames, of as many series as it takes, so
// that a warp writes 128 bytes of a row; rows begin at multiples of T, which is mostly odd, so that
// 4 bytes are all that is aligned. The samples that a block's frames have come to shared
// memory once: there a sample is mirrored or weighted once and not for every frame that has it, and
// frames that are hop samples apart can be read without bank conflicts.
#pragma once

#include "cuda/fourier.cuh"

namespace tsgen::cuda {

// Where sample i lies in shared memory: frames a power of 2 apart are in different banks.
__host__ __device__ constexpr int apart(int i) { return i + (i >> 5); }

// Sample l of the series that begins at `begin`, which is mirrored at its ends or 0 beyond them.
template <bool INVERSE, typename Number>
__device__ __forceinline__ float sample(const Number* samples, int begin, int l, int L) {
  if (INVERSE) return l >= 0 && l < L ? load(samples[begin + l]) : 0;
  l = abs(l);
  return load(samples[begin + min(l, 2 * (L - 1) - l)]);
}

template <typename Number, int W, bool INVERSE>
__global__ void __launch_bounds__(FRAMES)
    analysis_kernel(const Number* samples,  // (N, L)
                    const float* window,    // (W)
                    Number* planes,         // (N, 2, F, T)
                    int n_frames, Sizes size, Divisor by_T, Divisor by_places) {
  float* const taps = &shared<float>();  // (W)
  float* const inverse = taps + W;       // (W), of samples that all their frames reach
  float* const staged = inverse + W;     // the padded series' samples that the frames have
  const int hop = size.hop, L = size.L, T = size.T, places = (T - 1) * hop + W;  // of a series
  const int begin = (int)blockIdx.x * FRAMES, mine = begin + (int)threadIdx.x;
  const int first_series = begin / by_T, first_place = (begin - first_series * T) * hop;
  const auto place_of = [&](int frame) {
    const int series = frame / by_T;
    return (series - first_series) * places + (frame - series * T) * hop - first_place;
  };
  const int n_mine = min((int)threadIdx.x, W - 1);
  const float tap = window[n_mine];  // waited for with the samples

  const int n_staged = place_of(min(begin + FRAMES, n_frames) - 1) + W;
  constexpr int AT_ONCE = (W < 32 ? W / 4 : 8) + 1;  // all at hop = W / 4 <= 8: their loads overlap
#pragma unroll 1
  for (int from = (int)threadIdx.x; from < n_staged; from += AT_ONCE * FRAMES) {
    float* const to = staged + apart(from);
    float x[AT_ONCE];
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j) {
      if (from + j * FRAMES >= n_staged) break;
      const int at = first_place + from + j * FRAMES, ahead = at / by_places;
      const int place = at - ahead * places;
      x[j] = sample<INVERSE>(samples, (first_series + ahead) * L, place - W / 2, L);
    }
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j)
      if (from + j * FRAMES < n_staged) to[j * apart(FRAMES)] = x[j];
  }
  if (threadIdx.x < W) {
    taps[n_mine] = tap;
    if (INVERSE) inverse[n_mine] = inverse_weight(window, W, hop, n_mine, W);
  }
  __syncthreads();
  if (INVERSE) {
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < n_staged; i += FRAMES) {
      const int at = first_place + i, place = at - at / by_places * places;
      const int t = place / size.by_hop, n = place - t * hop;
      const bool inner = t >= size.halo && t < T;
      staged[apart(i)] *= inner ? inverse[n] : inverse_weight_at(taps, W, place, size);
    }
    __syncthreads();
  }

  if (mine >= n_frames) return;
  const int place = place_of(mine), series = mine / by_T;
  float x[W];
#pragma unroll
  for (int n = 0; n < W; n += 4) {
    const auto w = *(const Pack<float, 4>*)(taps + n);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[n + i] = staged[apart(place + n + i)] * w.at[i];
  }
  Complex X[W / 2 + 1];
  transform<W>(x, X);
  X[0] = {INVERSE ? 0.5f * X[0].real : X[0].real, 0};
  X[W / 2] = {INVERSE ? 0.5f * X[W / 2].real : X[W / 2].real, 0};

  int to = series * 2 * size.F * T + (mine - series * T);
#pragma unroll
  for (int f = 0; f <= W / 2; ++f) {
    if (f < size.first || f >= size.first + size.F) continue;
    planes[to] = store<Number>(X[f].real);
    planes[to + size.F * T] = store<Number>(X[f].imaginary);
    to += T;
  }
}

// By the definition, for windows of any length: a thread has a few rows of a frame.
constexpr int ROWS = 4;

template <typename Number, bool INVERSE>
__global__ void __launch_bounds__(FRAMES)
    analysis_of_any_kernel(const Number* samples, const float* window, Number* planes,
                           Tables tables, int n_frames, Sizes size, Divisor by_T, int n_groups) {
  const int frame = (int)(blockIdx.x / n_groups) * FRAMES + (int)threadIdx.x;
  const int row = (int)(blockIdx.x % n_groups) * ROWS, W = size.W, L = size.L, T = size.T;
  if (frame >= n_frames) return;
  const int series = frame / by_T, t = frame - series * T;
  Complex sum[ROWS] = {};
  int turn[ROWS] = {}, f[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) f[r] = size.first + min(row + r, size.F - 1);
  for (int n = 0, l = t * size.hop - W / 2; n < W; ++n, ++l) {
    float x = sample<INVERSE>(samples, series * L, l, L) * window[n];
    if (INVERSE) x *= l >= 0 && l < L ? tables.inverse[l] : 0;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const Complex root = tables.roots[turn[r]];
      sum[r].real = fmaf(x, root.real, sum[r].real);
      sum[r].imaginary = fmaf(x, root.imaginary, sum[r].imaginary);
      turn[r] += f[r];
      turn[r] -= turn[r] >= W ? W : 0;
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    if (row + r >= size.F) break;
    const int to = (series * 2 * size.F + row + r) * T + t;
    const bool alone = f[r] == 0 || 2 * f[r] == W;
    planes[to] = store<Number>(INVERSE && alone ? 0.5f * sum[r].real : sum[r].real);
    planes[to + size.F * T] = store<Number>(alone ? 0 : sum[r].imaginary);
  }
}

// Bytes of shared memory: no more samples than those of FRAMES frames in a row.
inline size_t room_for_analysis(const Sizes& size) {
  const int64_t ends = min((int64_t)FRAMES - 1, ceil_div(FRAMES - 1, size.T));  // of series
  const int64_t most = (FRAMES - 1) * size.hop + size.W + ends * (size.W - size.hop);
  return (2 * size.W + apart((int)most) + 1) * sizeof(float);
}

template <bool INVERSE>
void analyse(const Launch& on, const void* samples, const float* window, void* planes, int64_t N,
             int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T) {
  if (N * T == 0) return;
  const Sizes size = sizes_of(L, W, hop, first, F, T);
  const auto run = [&](auto zero, int64_t from, int n) {
    using Number = decltype(zero);
    const Number* const in = (const Number*)samples + from * L;
    Number* const out = (Number*)planes + from * 2 * F * T;
    const int n_frames = n * (int)T;
    const int64_t n_blocks = ceil_div(n_frames, FRAMES);
    const bool known = by_width(W, hop, [&](auto width) {
      launch(on, analysis_kernel<Number, decltype(width)::value, INVERSE>, n_blocks, FRAMES,
             room_for_analysis(size), in, window, out, n_frames, size, Divisor(T),
             Divisor((T - 1) * hop + W));
    });
    if (known) return;
    const int64_t n_groups = ceil_div(F, ROWS);
    launch(on, analysis_of_any_kernel<Number, INVERSE>, n_blocks * n_groups, FRAMES, 0, in, window,
           out, make_tables(on, window, size, INVERSE), n_frames, size, Divisor(T), (int)n_groups);
  };
  by_dtype(on.dtype, [&](auto zero) {
    for_some_series(N, size, 0, [&](int64_t from, int n) { run(zero, from, n); });
  });
}

}  // namespace tsgen::cuda
