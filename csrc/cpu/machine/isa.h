// Which instruction set the kernels use, found out at run time.
#pragma once

namespace tsgen::cpu {

enum class Isa { portable, avx2, avx512 };  // each contains the one before it

// The best that this machine has and that is allowed.
Isa isa();

// Allow nothing better from now on, for tests. Returns what is in use then.
Isa limit_isa(Isa most);

const char* name(Isa isa);

// Whether the native code was compiled with AddressSanitizer.
bool sanitized();

}  // namespace tsgen::cpu

// Files in csrc/cpu/simd are compiled once for each of them, into a namespace of its name.
#ifdef __x86_64__
#define TSGEN_EACH_ISA(declarations) \
  namespace portable {               \
  declarations                       \
  }                                  \
  namespace avx2 {                   \
  declarations                       \
  }                                  \
  namespace avx512 {                 \
  declarations                       \
  }
#define TSGEN_BEST(function)               \
  (isa() == Isa::avx512 ? avx512::function \
   : isa() == Isa::avx2 ? avx2::function   \
                        : portable::function)
#else
#define TSGEN_EACH_ISA(declarations) \
  namespace portable {               \
  declarations                       \
  }
#define TSGEN_BEST(function) (portable::function)
#endif
