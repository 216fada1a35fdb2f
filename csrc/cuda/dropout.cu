// Dropout and the addition after it, one pass, no mask: a thread decides about 32 elements.
#include "cuda/machine/numbers.cuh"
#include "ops_cuda.h"
#include "philox.h"

namespace tsgen::cuda {
namespace {

constexpr int THREADS = 128;
constexpr int BESIDE = 4;    // blocks of Philox a thread, which decide about neighbours
constexpr int ABREAST = 16;  // that do so together, as in tsgen/ops/dropout.py

template <typename T>
__device__ __forceinline__ T drop(T x, uint32_t draw, uint32_t n_dropped, float gain,
                                  const T* residual) {
  const T y = store<T>(draw >= n_dropped ? load(x) * gain : 0);  // rounded before it is added
  return residual ? store<T>(load(*residual) + load(y)) : y;
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    dropout_kernel(const T* x, const int64_t* seed, const T* residual, T* out,  // (n)
                   int64_t n, uint32_t n_dropped, float gain, bool packed) {
  using Four = Pack<T, BESIDE>;
  const int64_t block = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * BESIDE;
  const int64_t first = block / ABREAST * (8 * ABREAST) + block % ABREAST;
  const uint64_t key = (uint64_t)*seed;
  PhiloxWords words[BESIDE];
#pragma unroll
  for (int j = 0; j < BESIDE; ++j)  // as BESIDE divides 2^32, no j carries
    words[j] = philox4x32({{(uint32_t)block + j, (uint32_t)(block >> 32), 0, 0}}, (uint32_t)key,
                          (uint32_t)(key >> 32));
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int64_t at = first + i * ABREAST;
    const auto draw = [&](int j) { return words[j].word[i % 4] >> i / 4 * 16 & 0xffff; };
    if (packed && at + BESIDE <= n) {
      const Four in = *(const Four*)(x + at);
      const Four added = residual ? *(const Four*)(residual + at) : Four();
      Four result;
#pragma unroll
      for (int j = 0; j < BESIDE; ++j)
        result.at[j] = drop(in.at[j], draw(j), n_dropped, gain, residual ? &added.at[j] : nullptr);
      *(Four*)(out + at) = result;
    } else {
#pragma unroll
      for (int j = 0; j < BESIDE; ++j)
        if (at + j < n)
          out[at + j] =
              drop(x[at + j], draw(j), n_dropped, gain, residual ? residual + at + j : nullptr);
    }
  }
}

}  // namespace

void dropout(const Launch& on, const void* x, const int64_t* seed, const void* residual, void* out,
             int64_t n, int64_t n_dropped) {
  if (n == 0) return;
  const float gain = (float)(65536.0 / (65536 - n_dropped));
  by_dtype(on.dtype, [&](auto zero) {
    using T = decltype(zero);
    const uintptr_t all = (uintptr_t)x | (uintptr_t)residual | (uintptr_t)out;
    launch(on, dropout_kernel<T>, ceil_div(ceil_div(n, 8 * ABREAST) * ABREAST, THREADS * BESIDE),
           THREADS, 0, (const T*)x, seed, (const T*)residual, (T*)out, n, (uint32_t)n_dropped, gain,
           all % (BESIDE * sizeof(T)) == 0);
  });
}

}  // namespace tsgen::cuda
