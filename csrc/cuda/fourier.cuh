// What stft, istft and their gradients share: the Fourier transform of a frame in a thread's
// registers, the weight of the windows that reach a sample, and how the sizes come to a kernel.
//
//   analysis    plane[f, t] = sum_n w[n] sample[t hop + n] e^(-2πi f n / W)   stft, istft_backward
//   synthesis   sample[s] = sum_f,t w[n] Re(plane[f, t] e^(2πi f n / W)), n = s - t hop
//                                                                            istft, stft_backward
// Samples are counted in the padded series, which begins W / 2 before the series. INVERSE: planes
// and samples of istft. A row stands for itself and its mirror image, but for row 0 and row W / 2,
// so that a row counts 2 / W and those two half as much; and a sample is divided by the weight.
#pragma once

#include <type_traits>

#include "cuda/machine/divide.cuh"
#include "cuda/machine/numbers.cuh"
#include "ops_cuda.h"

namespace tsgen::cuda {

constexpr int FRAMES = 128;  // of a block, a thread each
constexpr int64_t MOST_NUMBERS =
    0x3ffe0000;  // of a launch; an int can count twice that and a block

struct Complex {
  float real, imaginary;
};

__device__ __forceinline__ Complex operator+(Complex a, Complex b) {
  return {a.real + b.real, a.imaginary + b.imaginary};
}
__device__ __forceinline__ Complex operator-(Complex a, Complex b) {
  return {a.real - b.real, a.imaginary - b.imaginary};
}
__device__ __forceinline__ Complex operator*(Complex a, Complex b) {
  return {a.real * b.real - a.imaginary * b.imaginary, a.real * b.imaginary + a.imaginary * b.real};
}
__device__ __forceinline__ Complex conjugate(Complex a) { return {a.real, -a.imaginary}; }

// e^(-2πi k / N), k <= N / 4 <= 16; a constant once the loop over k is unrolled
template <int N>
__device__ __forceinline__ Complex root(int k) {
  constexpr float cosines[17] = {
      1.f,          0.995184727f, 0.980785280f, 0.956940336f,  0.923879533f, 0.881921264f,
      0.831469612f, 0.773010453f, 0.707106781f, 0.634393284f,  0.555570233f, 0.471396737f,
      0.382683432f, 0.290284677f, 0.195090322f, 0.0980171403f, 0.f};
  return {cosines[k * (64 / N)], -cosines[16 - k * (64 / N)]};
}

// X[f] = sum_n x[n STEP] e^(-2πi f n / N), f <= N / 2. The imaginary parts of the first and the
// last are 0 and not written.
template <int N, int STEP = 1>
__device__ __forceinline__ void transform(const float* x, Complex* X) {
  if constexpr (N == 2) {
    X[0].real = x[0] + x[STEP];
    X[1].real = x[0] - x[STEP];
  } else {
    Complex even[N / 4 + 1], odd[N / 4 + 1];
    transform<N / 2, 2 * STEP>(x, even);
    transform<N / 2, 2 * STEP>(x + STEP, odd);
    X[0].real = even[0].real + odd[0].real;
    X[N / 2].real = even[0].real - odd[0].real;
#pragma unroll
    for (int k = 1; k < N / 4; ++k) {
      const Complex turned = odd[k] * root<N>(k);
      X[k] = even[k] + turned;
      X[N / 2 - k] = conjugate(even[k] - turned);
    }
    X[N / 4] = {even[N / 4].real, -odd[N / 4].real};
  }
}

// Its transpose: x[n STEP] = sum_f Re(X[f] e^(2πi f n / N)), f <= N / 2. The imaginary parts of the
// first and the last are not read.
template <int N, int STEP = 1>
__device__ __forceinline__ void transform_back(const Complex* X, float* x) {
  if constexpr (N == 2) {
    x[0] = X[0].real + X[1].real;
    x[STEP] = X[0].real - X[1].real;
  } else {
    Complex even[N / 4 + 1], odd[N / 4 + 1];
    even[0].real = X[0].real + X[N / 2].real;
    odd[0].real = X[0].real - X[N / 2].real;
#pragma unroll
    for (int k = 1; k < N / 4; ++k) {
      const Complex mirrored = conjugate(X[N / 2 - k]);
      even[k] = X[k] + mirrored;
      odd[k] = (X[k] - mirrored) * conjugate(root<N>(k));
    }
    even[N / 4].real = X[N / 4].real;
    odd[N / 4].real = -X[N / 4].imaginary;
    transform_back<N / 2, 2 * STEP>(even, x);
    transform_back<N / 2, 2 * STEP>(odd, x + STEP);
  }
}

struct Sizes {
  int L, W, hop, first, F, T;
  int halo;  // frames that reach a sample beside the last one that does
  Divisor by_hop;
};

inline Sizes sizes_of(int64_t L, int64_t W, int64_t hop, int64_t first, int64_t F, int64_t T) {
  hop = min(hop, L + W);  // the second frame is behind the series already
  if (max(max(L, T * hop) + 2 * W, 2 * F * T) > MOST_NUMBERS)
    throw std::runtime_error("CUDA: wanted series and planes of fewer than 2^30 numbers each");
  return {(int)L, (int)W, (int)hop, (int)first, (int)F, (int)T, (int)((W - 1) / hop), Divisor(hop)};
}

// 2 / W over the sum of the squares of windows: at n of the one of frame t, at n + hop of that of
// frame t - 1, and so on. 0 where no window reaches.
__device__ __forceinline__ float inverse_weight(const float* window, int W, int hop, int n, int t) {
  float weight = 0;
  for (; t >= 0 && n < W; --t, n += hop) weight += window[n] * window[n];
  return weight > 1e-11f ? 2.0f / W / weight : 0;
}

__device__ __forceinline__ float inverse_weight_at(const float* window, int W, int place,
                                                   const Sizes& size) {
  const int t = min(place / size.by_hop, size.T - 1);
  return inverse_weight(window, W, size.hop, place - t * size.hop, t);
}

// The sum of at(place) over the mirror images of sample l, beyond the ends of its series.
template <typename At>
__device__ __forceinline__ float over_mirror_images(int l, int L, int W, const At& at) {
  const int half = W / 2, last = L - 1;
  float sum = 0;
  if (l > 0 && l <= half) sum += at(half - l);
  if (l < last && l >= last - half) sum += at(2 * last - l + half);
  return sum;
}

// do_it(first, n) for as many series at a time as allow ints for all that is counted in a kernel.
template <typename F>
void for_some_series(int64_t N, const Sizes& size, int64_t columns, const F& do_it) {
  const int64_t each = max(max((int64_t)size.L, columns), (int64_t)2 * size.F * size.T);
  const int64_t most = MOST_NUMBERS / each;
  for (int64_t first = 0; first < N; first += most) do_it(first, (int)min(most, N - first));
}

// Whether do_it(width), with W as its ::value, was called: a frame fits into registers, and
// no sample lies between frames.
template <typename F>
bool by_width(int64_t W, int64_t hop, const F& do_it) {
  switch (hop <= W ? W : 0) {
    case 4:
      return do_it(std::integral_constant<int, 4>()), true;
    case 8:
      return do_it(std::integral_constant<int, 8>()), true;
    case 16:
      return do_it(std::integral_constant<int, 16>()), true;
    case 32:
      return do_it(std::integral_constant<int, 32>()), true;
    case 64:
      return do_it(std::integral_constant<int, 64>()), true;
    default:
      return false;
  }
}

// For all others: e^(-2πi k / W), and the inverse weight of every sample or null.
struct Tables {
  Complex* roots;  // (W)
  float* inverse;  // (L)
};

static __global__ void __launch_bounds__(FRAMES)
    tables_kernel(const float* window, Tables to, Sizes size) {
  const int i = (int)(blockIdx.x * FRAMES + threadIdx.x);
  if (i < size.W) {
    double sine, cosine;
    sincospi(2.0 * i / size.W, &sine, &cosine);
    to.roots[i] = {(float)cosine, (float)-sine};
  }
  if (to.inverse && i < size.L)
    to.inverse[i] = inverse_weight_at(window, size.W, i + size.W / 2, size);
}

// Bytes of scratch that they need.
inline int64_t tables_bytes(int64_t L, int64_t W, int64_t hop, bool inverse) {
  if (by_width(W, hop, [](auto) {})) return 0;
  return W * (int64_t)sizeof(Complex) + (inverse ? L * (int64_t)sizeof(float) : 0);
}

inline Tables make_tables(const Launch& on, const float* window, const Sizes& size, bool inverse) {
  Complex* const roots = (Complex*)on.scratch;
  const Tables tables{roots, inverse ? (float*)(roots + size.W) : nullptr};
  launch(on, tables_kernel, ceil_div(max(size.W, size.L), FRAMES), FRAMES, 0, window, tables, size);
  return tables;
}

}  // namespace tsgen::cuda
