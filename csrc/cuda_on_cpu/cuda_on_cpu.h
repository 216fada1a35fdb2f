// What the sources in csrc/cuda use of CUDA, as plain C++: each thread of a block is a fiber.
//
// It checks arithmetic, indices, bounds and barriers on any machine, also under AddressSanitizer
// and UndefinedBehaviorSanitizer. It cannot see how fast something is, nor every race.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "fibers.h"

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline dim3 threadIdx{0, 0, 0}, blockIdx{0, 0, 0}, blockDim, gridDim;

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static  // blocks run one at a time
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

using std::max;
using std::min;

inline void __syncthreads() { cuda_on_cpu::wait_for_block(); }
inline void __syncwarp(unsigned mask = ~0u) { cuda_on_cpu::wait_for_lanes(mask); }

namespace cuda_on_cpu {

// What `from` passed to the same call.
template <typename T>
T exchange(unsigned mask, T value, unsigned from) {
  write_mailbox(&value, sizeof value);
  wait_for_lanes(mask);
  std::memcpy(&value, mailbox_of(from), sizeof value);
  return value;
}

}  // namespace cuda_on_cpu

template <typename T>
T __shfl_sync(unsigned mask, T value, unsigned from, unsigned width = 32) {
  const unsigned first = cuda_on_cpu::lane() & ~(width - 1);
  return cuda_on_cpu::exchange(mask, value, first + (from & (width - 1)));
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, unsigned bits, unsigned width = 32) {
  const unsigned lane = cuda_on_cpu::lane(), from = lane ^ bits;
  return cuda_on_cpu::exchange(mask, value, from / width <= lane / width ? from : lane);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, unsigned width = 32) {
  const unsigned lane = cuda_on_cpu::lane();
  return cuda_on_cpu::exchange(mask, value, lane % width < distance ? lane : lane - distance);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, unsigned width = 32) {
  const unsigned lane = cuda_on_cpu::lane();
  const bool inside = lane % width + distance < width;
  return cuda_on_cpu::exchange(mask, value, inside ? lane + distance : lane);
}

inline unsigned __ballot_sync(unsigned mask, int yes) {
  cuda_on_cpu::write_mailbox(&yes, sizeof yes);
  cuda_on_cpu::wait_for_lanes(mask);
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    std::memcpy(&yes, cuda_on_cpu::mailbox_of(lane), sizeof yes);
    ballot |= (unsigned)(yes != 0) << lane;
  }
  return ballot;
}

inline int __any_sync(unsigned mask, int yes) { return __ballot_sync(mask, yes) != 0; }
inline int __all_sync(unsigned mask, int yes) { return __ballot_sync(mask, yes) == mask; }

// The lanes that pass the same value.
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  cuda_on_cpu::write_mailbox(&value, sizeof value);
  cuda_on_cpu::wait_for_lanes(mask);
  unsigned same = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1)
      same |= (unsigned)!std::memcmp(&value, cuda_on_cpu::mailbox_of(lane), sizeof value) << lane;
  return same;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz((unsigned)bits); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }

template <typename To, typename From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof from);
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline float __uint_as_float(unsigned bits) { return bits_as<float>(bits); }
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
inline float __int_as_float(int bits) { return bits_as<float>(bits); }
inline int __float_as_int(float x) { return bits_as<int>(x); }
inline long long __double_as_longlong(double x) { return bits_as<long long>(x); }
inline double __longlong_as_double(long long bits) { return bits_as<double>(bits); }

inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline void sincospi(double x, double* sine, double* cosine) {
  *sine = std::sin(M_PI * x), *cosine = std::cos(M_PI * x);
}

template <typename T>
T __ldg(const T* at) {
  return *at;
}

// Threads run one at a time, so that every access is atomic.
template <typename T>
T atomicAdd(T* at, T more) {
  const T old = *at;
  *at = old + more;
  return old;
}
template <typename T>
T atomicMax(T* at, T other) {
  const T old = *at;
  *at = max(old, other);
  return old;
}
template <typename T>
T atomicMin(T* at, T other) {
  const T old = *at;
  *at = min(old, other);
  return old;
}
template <typename T>
T atomicOr(T* at, T bits) {
  const T old = *at;
  *at = old | bits;
  return old;
}
