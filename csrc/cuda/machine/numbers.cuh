// Numbers as they are stored: float, half, bfloat16. All are computed with in float.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "cuda/machine/device.h"
#include "cuda/machine/launch.cuh"

namespace tsgen::cuda {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

__device__ __forceinline__ float load(float x) { return x; }

__device__ __forceinline__ float load(BFloat16 x) {
  return __uint_as_float((unsigned)x.bits << 16);
}

__device__ __forceinline__ float load(Half x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#elif defined(TSGEN_CUDA_ON_CPU)
  return (float)bits_as<_Float16>(x.bits);
#else
  return 0;  // never run: nvcc's pass for the CPU
#endif
}

// store<T>(x): x rounded to the nearest T, on a tie to the even one.
template <typename T>
__device__ __forceinline__ T store(float x);

template <>
__device__ __forceinline__ float store<float>(float x) {
  return x;
}

template <>
__device__ __forceinline__ BFloat16 store<BFloat16>(float x) {
#ifdef __CUDA_ARCH__
  BFloat16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  const unsigned bits = __float_as_uint(x);
  if (x != x) return {(uint16_t)(bits >> 16 | 0x40)};  // rounding could turn it into infinity
  return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}

template <>
__device__ __forceinline__ Half store<Half>(float x) {
#ifdef __CUDA_ARCH__
  Half y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#elif defined(TSGEN_CUDA_ON_CPU)
  return {bits_as<uint16_t>((_Float16)x)};
#else
  return {0};  // never run: nvcc's pass for the CPU
#endif
}

// n numbers that one instruction moves, if they are aligned to their size.
template <typename T, int n>
struct alignas(n * sizeof(T)) Pack {
  T at[n];
};

// do_it(T()) with T the type that `dtype` names.
template <typename F>
void by_dtype(Dtype dtype, const F& do_it) {
  switch (dtype) {
    case Dtype::float32:
      return do_it(float());
    case Dtype::float16:
      return do_it(Half());
    case Dtype::bfloat16:
      return do_it(BFloat16());
    default:
      throw std::runtime_error("CUDA: wanted float32, float16 or bfloat16");
  }
}

}  // namespace tsgen::cuda
