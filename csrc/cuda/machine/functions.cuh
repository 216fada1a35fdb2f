// Functions of float that CUDA has not, or has with a slow path in local memory.
#pragma once

#include "cuda/machine/launch.cuh"

namespace tsgen::cuda {

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;
constexpr float LOWEST = -3.4028235e38f;  // below any number, yet differences to it are no NaN

// sin and cos of x modulo π: both with the wrong sign or both with the right one, see
// kernels/_math.py, which has the same.
struct HalfTurn {
  float sine, cosine;
};

__device__ __forceinline__ HalfTurn half_turn(float x) {
  const float big = 12582912.0f;  // 1.5 * 2^23: a number plus this, minus this, is whole
  const float k = (x * 0.318309886f + big) - big;
  float r = fmaf(k, -3.140625f, x);  // π in three parts, the first two without rounding
  r = fmaf(k, -9.67502593994e-4f, r);
  r = fmaf(k, -1.509957990978e-7f, r);
  r = r > 1.6f ? 1.6f : r < -1.6f ? -1.6f : r;  // NaN stays
  const float u = r * r;
  float s = 2.6057808e-6f * u - 1.9809602e-4f;
  s = s * u + 8.3330665e-3f;
  s = s * u - 1.6666660e-1f;
  float c = -2.6193814e-7f * u + 2.4769304e-5f;
  c = c * u - 1.3888569e-3f;
  c = c * u + 4.1666657e-2f;
  return {r + r * u * s, 1.0f - 0.5f * u + u * u * c};
}

// 2^x to 2 units in the last place; what is not normal is 0.
__device__ __forceinline__ float exp2_fast(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

// x Φ(x) to 5e-8 and half an ulp; NaN for infinity. See kernels/_rows.py, which has the same.
__device__ __forceinline__ float gelu(float x) {
  const float a = fabsf(x);
  float p = -2.29330794e-6f * a + 3.30670664e-5f;
  p = p * a - 1.57099712e-4f;
  p = p * a - 2.04862779e-4f;
  p = p * a + 7.14904629e-3f;
  p = p * a - 5.25534302e-2f;
  p = p * a - 4.59189683e-1f;
  p = p * a - 1.15110755f;
  p = p * a - 0.99999994f;
  return fmaxf(x, 0.0f) - a * exp2_fast(p);
}

// 0, of which the compiler does not know: what is computed with it is computed where it is used,
// and not kept in registers through a loop around.
__device__ __forceinline__ int not_yet() {
  int zero = 0;
#ifdef __CUDA_ARCH__
  asm volatile("mov.u32 %0, 0;" : "=r"(zero));
#endif
  return zero;
}

// threadIdx.x, likewise.
__device__ __forceinline__ unsigned thread_now() { return threadIdx.x + (unsigned)not_yet(); }

}  // namespace tsgen::cuda
