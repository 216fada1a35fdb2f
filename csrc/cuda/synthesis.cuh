// Planes to samples: istft, and the gradient of stft. Nothing is scattered.
//
// A block has FRAMES columns, which are the hop samples from a frame's beginning on, of as many
// series as it takes. A thread transforms the frame of a column in its registers, from rows that
// a warp reads 128 bytes of, and puts it into shared memory; then a sample is the sum over the
// frames there that reach it. The first `before` columns and the last `after` are there for the
// others, and another block's own.
#pragma once

#include "cuda/fourier.cuh"

namespace tsgen::cuda {

// A series' columns, and which of a block's are there for others.
struct Columns {
  int n, before, after;
  Divisor by_n;
  int own;  // of a block
};

template <int W>
struct Room {
  static constexpr int WIDE = W < 16 ? W / 4 : 4;  // numbers at a time, where hop allows it
  static constexpr int PITCH = W + WIDE;           // so that lanes write to different banks
  float taps[W];
  float frames[FRAMES * PITCH];
};

// The sum of the frames that reach a place of the padded series; `frame` is the one of `column`.
template <int W>
__device__ __forceinline__ float reaching(const float* frame, int column, int place,
                                          const Sizes& size) {
  const int last = min(place / size.by_hop, size.T - 1);
  float sum = 0;
  for (int t = last, n = place - t * size.hop; t >= 0 && n < W; --t, n += size.hop)
    sum += frame[(t - column) * Room<W>::PITCH + n];
  return sum;
}

template <typename Number, int W, int PACK, bool INVERSE>
__device__ __forceinline__ void add_frames(const Room<W>& room, Number* samples, int n_columns,
                                           const Columns& columns, const Sizes& size) {
  constexpr int PITCH = Room<W>::PITCH;
  const int hop = size.hop, L = size.L, begin = (int)blockIdx.x * columns.own;
  const int end = min(columns.own, n_columns - begin) * hop;
  for (int i = (int)threadIdx.x * PACK; i < end; i += FRAMES * PACK) {
    const int k = i / size.by_hop, r = i - k * hop;
    const int series = (begin + k) / columns.by_n, column = begin + k - series * columns.n;
    const int l = column * hop + r - W / 2;
    if (l < 0 || l >= L) continue;
    const float* const frame = room.frames + (columns.before + k) * PITCH;
    const int missing = max(0, column - (size.T - 1));  // frames behind the last
    const int W_here = min(W, r + (column + 1) * hop);  // none is before the first
    float sum[PACK] = {}, weight[PACK] = {};
    const float* from = frame + r + missing * (hop - PITCH);
    for (int n = r + missing * hop; n < W_here; n += hop, from += hop - PITCH) {
      const auto x = *(const Pack<float, PACK>*)from;
      const auto w = *(const Pack<float, PACK>*)(room.taps + n);
#pragma unroll
      for (int j = 0; j < PACK; ++j) {
        sum[j] += x.at[j];
        if (INVERSE) weight[j] = fmaf(w.at[j], w.at[j], weight[j]);
      }
    }
    Pack<Number, PACK> out;
    const bool near_an_end = l <= W / 2 || l + PACK >= L - W / 2;
#pragma unroll
    for (int j = 0; j < PACK; ++j) {
      if (INVERSE) sum[j] = weight[j] > 1e-11f ? __fdividef(2.0f / W * sum[j], weight[j]) : 0;
      if (!INVERSE && near_an_end)
        sum[j] += over_mirror_images(
            l + j, L, W, [&](int place) { return reaching<W>(frame, column, place, size); });
      out.at[j] = store<Number>(sum[j]);
    }
    *(Pack<Number, PACK>*)(samples + (series * L + l)) = out;
  }
}

template <typename Number, int W, bool INVERSE>
__global__ void __launch_bounds__(FRAMES)
    synthesis_kernel(const Number* planes,  // (N, 2, F, T)
                     const float* window,   // (W)
                     Number* samples,       // (N, L)
                     int n_columns, bool wide, Columns columns, Sizes size) {
  auto& room = shared<Room<W>>();
  const int mine = (int)blockIdx.x * columns.own - columns.before + (int)threadIdx.x;
  const int series = max(mine, 0) / columns.by_n, t = mine - series * columns.n;
  const bool here = mine >= 0 && mine < n_columns && t < size.T;
  int from = (series * 2 * size.F - size.first) * size.T + t;
  Complex X[W / 2 + 1];
#pragma unroll
  for (int f = 0; f <= W / 2; ++f, from += size.T) {
    const bool given = here && f >= size.first && f < size.first + size.F;
    X[f].real = given ? load(planes[from]) : 0;
    if (f != 0 && f != W / 2) X[f].imaginary = given ? load(planes[from + size.F * size.T]) : 0;
  }
  if (threadIdx.x < W) room.taps[threadIdx.x] = window[threadIdx.x];
  __syncthreads();

  if (INVERSE) X[0].real *= 0.5f, X[W / 2].real *= 0.5f;
  float x[W];
  transform_back<W>(X, x);
  constexpr int WIDE = Room<W>::WIDE;
#pragma unroll
  for (int n = 0; n < W; n += WIDE) {
    auto w = *(const Pack<float, WIDE>*)(room.taps + n);
#pragma unroll
    for (int i = 0; i < WIDE; ++i) w.at[i] *= x[n + i];
    *(Pack<float, WIDE>*)(room.frames + threadIdx.x * Room<W>::PITCH + n) = w;
  }
  __syncthreads();

  if (wide)
    add_frames<Number, W, WIDE, INVERSE>(room, samples, n_columns, columns, size);
  else
    add_frames<Number, W, 1, INVERSE>(room, samples, n_columns, columns, size);
}

// By the definition, for windows of any length: a thread has a sample.
template <typename Number, bool INVERSE>
__device__ __forceinline__ float reaching_any(const Number* planes, const float* window,
                                              const Complex* roots, int begin, int place,
                                              const Sizes& size) {
  const int W = size.W, T = size.T, last = min(place / size.by_hop, T - 1);
  float sum = 0;
  for (int t = last, n = place - t * size.hop; t >= 0 && n < W; --t, n += size.hop) {
    int from = begin + t;
    float frame = 0;
    int turn = (int)((int64_t)size.first * n % W);
    for (int f = size.first; f < size.first + size.F; ++f, from += T) {
      const bool alone = f == 0 || 2 * f == W;
      const float real = load(planes[from]) * (INVERSE && alone ? 0.5f : 1);
      frame = fmaf(real, roots[turn].real, frame);
      if (!alone) frame = fmaf(load(planes[from + size.F * T]), roots[turn].imaginary, frame);
      turn += turn + n < W ? n : n - W;
    }
    sum = fmaf(frame, window[n], sum);
  }
  return sum;
}

template <typename Number, bool INVERSE>
__global__ void __launch_bounds__(FRAMES)
    synthesis_of_any_kernel(const Number* planes, const float* window, Number* samples,
                            Tables tables, int n_samples, Sizes size, Divisor by_L) {
  const int i = (int)(blockIdx.x * FRAMES + threadIdx.x);
  if (i >= n_samples) return;
  const int series = i / by_L, l = i - series * size.L;
  const int begin = series * 2 * size.F * size.T;
  const auto at = [&](int place) {
    return reaching_any<Number, INVERSE>(planes, window, tables.roots, begin, place, size);
  };
  const float sum = at(l + size.W / 2);
  samples[i] = store<Number>(INVERSE ? sum * tables.inverse[l]
                                     : sum + over_mirror_images(l, size.L, size.W, at));
}

// Of a gradient, mirror images need a frame more on each side than reach the sample itself.
inline Columns columns_of(const Sizes& size, bool inverse) {
  const int n = (size.L - 1 + size.W / 2) / size.hop + 1;  // with samples of the series
  const int before = inverse ? size.halo : size.W / size.hop, after = inverse ? 0 : 1;
  return {n, before, after, Divisor(n), FRAMES - before - after};
}

template <bool INVERSE>
void synthesise(const Launch& on, const void* planes, const float* window, void* samples, int64_t N,
                int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T) {
  if (N * L == 0) return;
  const Sizes size = sizes_of(L, W, hop, first, F, T);
  const Columns columns = columns_of(size, INVERSE);
  const auto run = [&](auto zero, int64_t from, int n) {
    using Number = decltype(zero);
    const Number* const in = (const Number*)planes + from * 2 * F * T;
    Number* const out = (Number*)samples + from * L;
    const int n_columns = n * columns.n;
    const bool known = by_width(W, hop, [&](auto width) {
      constexpr int w = decltype(width)::value, WIDE = Room<w>::WIDE;
      const bool wide =
          hop % WIDE == 0 && L % WIDE == 0 && (uintptr_t)out % (WIDE * sizeof(Number)) == 0;
      launch(on, synthesis_kernel<Number, w, INVERSE>, ceil_div(n_columns, columns.own), FRAMES,
             sizeof(Room<w>), in, window, out, n_columns, wide, columns, size);
    });
    if (!known)
      launch(on, synthesis_of_any_kernel<Number, INVERSE>, ceil_div(n * L, FRAMES), FRAMES, 0, in,
             window, out, make_tables(on, window, size, INVERSE), n * (int)L, size, Divisor(L));
  };
  by_dtype(on.dtype, [&](auto zero) {
    for_some_series(N, size, columns.n, [&](int64_t from, int n) { run(zero, from, n); });
  });
}

}  // namespace tsgen::cuda
