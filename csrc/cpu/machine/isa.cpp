#include "machine/isa.h"

#include <atomic>

namespace tsgen::cpu {
namespace {

Isa best() {
#ifdef __x86_64__
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2) return avx512 ? Isa::avx512 : Isa::avx2;
#endif
  return Isa::portable;
}

std::atomic<Isa> allowed{Isa::avx512};

}  // namespace

Isa isa() {
  static const Isa here = best();
  const Isa most = allowed.load(std::memory_order_relaxed);
  return here < most ? here : most;
}

Isa limit_isa(Isa most) {
  allowed = most;
  return isa();
}

const char* name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "portable";
}

bool sanitized() {
#ifdef __SANITIZE_ADDRESS__
  return true;
#else
  return false;
#endif
}

}  // namespace tsgen::cpu
