// What a call works with: a stream, and memory. Kept for later calls.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/engine/room.h"

namespace tsgen::cuda {

struct EndStream {
  void operator()(void* stream) const noexcept { end_stream(stream); }
};

struct Workspace {
  std::unique_ptr<void, EndStream> stream{new_stream()};
  Memory memory;
  int64_t n_bytes = 0;

  void grow(int64_t wanted) {
    if (wanted <= n_bytes) return;
    memory.reset(), n_bytes = 0;  // first: both may be more than there is
    memory.reset(allocate(wanted)), n_bytes = wanted;
  }
};

// Those that no call has now.
class Workspaces {
 public:
  std::unique_ptr<Workspace> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return std::make_unique<Workspace>();
    std::unique_ptr<Workspace> own = std::move(free_.back());
    free_.pop_back();
    return own;
  }
  void give_back(std::unique_ptr<Workspace> own) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(own));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> free_;
};

// One of them, until this ends. Calls of other threads have others, and run beside this one.
class Lease {
 public:
  Lease(Workspaces& all, int64_t device, int64_t n_bytes)
      : on_device_(device), all_(all), device_(device), own_(all.take()) {
    own_->grow(n_bytes);
  }
  ~Lease() {
    try {
      wait(on(nullptr));  // after an error, too: the host's arrays may be in use
      all_.give_back(std::move(own_));
    } catch (...) {  // what has failed is not used again
    }
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  void* memory() const { return own_->memory.get(); }
  Launch on(void* scratch) const { return {Dtype::float32, device_, own_->stream.get(), scratch}; }

 private:
  OnDevice on_device_;
  Workspaces& all_;
  int64_t device_;
  std::unique_ptr<Workspace> own_;
};

}  // namespace tsgen::cuda
