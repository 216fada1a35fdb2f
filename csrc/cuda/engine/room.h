// Memory on a device: where a model's weights and a call's intermediate numbers lie. Plain C++.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include "cuda/machine/memory.h"

namespace tsgen::cuda {

struct Release {
  void operator()(void* memory) const noexcept { release(memory); }
};
using Memory = std::unique_ptr<void, Release>;

// Hands memory out in pieces that any load is aligned in. Without a base it only counts.
class Room {
 public:
  explicit Room(void* base = nullptr) : base_((char*)base) {}

  template <typename T>
  T* take(int64_t n) {
    char* const piece = base_ ? base_ + used_ : nullptr;
    used_ += (n * (int64_t)sizeof(T) + 255) / 256 * 256;
    return (T*)piece;
  }
  int64_t used() const { return used_; }  // bytes

 private:
  char* base_;
  int64_t used_ = 0;
};

// Arrays on the device that a model keeps.
class Kept {
 public:
  template <typename T>
  const T* add(const Launch& on, const T* x, int64_t n) {
    if (n == 0) return nullptr;
    arrays_.emplace_back(allocate(n * sizeof(T)));
    copy_in(on, arrays_.back().get(), x, n * sizeof(T));
    return (const T*)arrays_.back().get();
  }
  template <typename T>
  const T* add(const Launch& on, const std::vector<T>& x) {
    return add(on, x.data(), (int64_t)x.size());
  }

 private:
  std::vector<Memory> arrays_;
};

// Folded numbers (csrc/model/fold.h), taken to the device array by array in their order.
class Flat {
 public:
  Flat(const Launch& on, const std::vector<float>& flat, Kept& kept)
      : on_(on), flat_(flat), kept_(kept) {}

  const float* next(int64_t n) {
    if (n > (int64_t)flat_.size() - used_) throw std::logic_error("folded: wanted more numbers");
    used_ += n;
    return kept_.add(on_, flat_.data() + used_ - n, n);
  }
  void end() const {
    if (used_ != (int64_t)flat_.size()) throw std::logic_error("folded: wanted fewer numbers");
  }

 private:
  const Launch& on_;
  const std::vector<float>& flat_;
  Kept& kept_;
  int64_t used_ = 0;
};

}  // namespace tsgen::cuda
