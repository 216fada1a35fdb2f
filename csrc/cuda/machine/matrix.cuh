// Tensor cores and copies to shared memory: PTX on a GPU, the same by exchange among fibers on a
// CPU. 16-bit numbers are Half or BFloat16, two in a word, the first in its lower half.
//
// PTX ISA 9.0, sections 9.7.14.5.8 (mma.m16n8k16), 9.7.14.5.15 (ldmatrix), 9.7.9.25.3 (cp.async).
#pragma once

#include <type_traits>

#include "cuda/machine/numbers.cuh"

namespace tsgen::cuda {

// A warp's part of a 16 x 16 matrix A: row lane / 4, + 8 in the odd words; columns 2 (lane % 4) and
// the next, + 8 in the last two words.
struct FragmentA {
  uint32_t word[4];
};
// Of a 16 x 8 matrix B: rows 2 (lane % 4) and the next, + 8 in the second word; column lane / 4.
struct FragmentB {
  uint32_t word[2];
};
// Of a 16 x 8 matrix C: row lane / 4, + 8 in the last two; columns 2 (lane % 4) and the next.
struct FragmentC {
  float at[4];
};

template <typename T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
#ifdef __CUDA_ARCH__
  uint32_t word;
  if (std::is_same<T, Half>::value)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  return (uint32_t)store<T>(high).bits << 16 | store<T>(low).bits;
#endif
}

#ifdef TSGEN_CUDA_ON_CPU

template <typename T>
float half_of(uint32_t word, int i) {
  return load(T{(uint16_t)(word >> 16 * i)});
}

template <typename T>
void multiply_add(FragmentC& c, const FragmentA& a, const FragmentB& b) {
  struct Mail {
    FragmentA a;
    FragmentB b;
  } mail{a, b};
  cuda_on_cpu::write_mailbox(&mail, sizeof mail);
  cuda_on_cpu::wait_for_lanes(ALL_LANES);
  const auto mail_of = [](unsigned lane) { return (const Mail*)cuda_on_cpu::mailbox_of(lane); };
  const unsigned lane = cuda_on_cpu::lane();
  for (int i = 0; i < 4; ++i) {
    const unsigned row = lane / 4, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int word = k / 8, pair = k % 8 / 2;
      const Mail* const from_a = mail_of(row * 4 + pair);
      const Mail* const from_b = mail_of(column * 4 + pair);
      c.at[i] += half_of<T>(from_a->a.word[2 * word + i / 2], k % 2) *
                 half_of<T>(from_b->b.word[word], k % 2);
    }
  }
}

template <bool transposed>
void load_matrices(uint32_t (&word)[4], const void* row) {
  cuda_on_cpu::write_mailbox(&row, sizeof row);
  cuda_on_cpu::wait_for_lanes(ALL_LANES);
  const unsigned lane = cuda_on_cpu::lane();
  const auto element = [](unsigned row, unsigned column) {
    return (uint32_t)(*(const uint16_t* const*)cuda_on_cpu::mailbox_of(row))[column];
  };
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned r = 8 * i + lane / 4, c = lane % 4 * 2;
    word[i] = transposed ? element(8 * i + c, lane / 4) | element(8 * i + c + 1, lane / 4) << 16
                         : element(r, c) | element(r, c + 1) << 16;
  }
}

inline void copy_16(void* shared, const void* global) {
  cuda_on_cpu::copy_later(shared, global, 16);
}
inline void copy_up_to_16(void* shared, const void* global, int n_bytes) {
  static const char nothing[16] = {};
  cuda_on_cpu::copy_later(shared, global, n_bytes);
  cuda_on_cpu::copy_later((char*)shared + n_bytes, nothing, 16 - n_bytes);
}
inline void end_copies() { cuda_on_cpu::end_copy_group(); }
template <int groups_left>
void wait_for_copies() {
  cuda_on_cpu::wait_for_copies(groups_left);
}

#else

// c += a b, in float; T is what the words of a and b hold.
template <typename T>
__device__ __forceinline__ void multiply_add(FragmentC& c, const FragmentA& a, const FragmentB& b);

#define TSGEN_MULTIPLY_ADD(T, name)                                                       \
  template <>                                                                             \
  __device__ __forceinline__ void multiply_add<T>(FragmentC & c, const FragmentA& a,      \
                                                  const FragmentB& b) {                   \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                            \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"            \
        : "+f"(c.at[0]), "+f"(c.at[1]), "+f"(c.at[2]), "+f"(c.at[3])                      \
        : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]), \
          "r"(b.word[1]));                                                                \
  }
TSGEN_MULTIPLY_ADD(Half, "f16")
TSGEN_MULTIPLY_ADD(BFloat16, "bf16")
#undef TSGEN_MULTIPLY_ADD

// Four 8 x 8 matrices of 16-bit numbers in shared memory: lanes 8 i to 8 i + 7 give the rows of
// matrix i, 16 bytes each and aligned to that. word[i]: its row lane / 4, columns 2 (lane % 4) and
// the next; transposed: of the transposed matrix.
template <bool transposed>
__device__ __forceinline__ void load_matrices(uint32_t (&word)[4], const void* row) {
  const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
  if (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "r"(at)
                 : "memory");
}

// Begin to copy 16 bytes; both addresses aligned to that. They are there for this thread after
// wait_for_copies, for others after a barrier behind it.
__device__ __forceinline__ void copy_16(void* shared, const void* global) {
  const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
// The same of n_bytes, and zeros up to 16: some more instructions.
__device__ __forceinline__ void copy_up_to_16(void* shared, const void* global, int n_bytes) {
  const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(n_bytes)
               : "memory");
}
__device__ __forceinline__ void end_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int groups_left>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups_left) : "memory");
}

#endif

// The same of 16 bytes or none.
__device__ __forceinline__ void copy_16(void* shared, const void* global, bool there) {
  copy_up_to_16(shared, global, there ? 16 : 0);
}

}  // namespace tsgen::cuda
