// Memory for the length of a call. It begins with a cache line and is not filled with zeros.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace tsgen::cpu {

struct FreeScratch {
  void operator()(void* memory) const { operator delete(memory, std::align_val_t{64}); }
};
template <typename T>
using Scratch = std::unique_ptr<T[], FreeScratch>;
template <typename T>
Scratch<T> scratch(int64_t n) {
  return Scratch<T>((T*)operator new(n * sizeof(T), std::align_val_t{64}));
}

// n floats for each thread, on cache lines of its own.
class ThreadScratch {
 public:
  ThreadScratch(int64_t n_threads, int64_t n)
      : size_((n + 15) / 16 * 16), memory_(scratch<float>(n_threads * size_ + 16)) {}
  float* of(int64_t thread) const { return memory_.get() + thread * size_; }

 private:
  int64_t size_;
  Scratch<float> memory_;
};

}  // namespace tsgen::cpu
