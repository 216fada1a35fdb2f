// A device's memory and streams, as host code uses them. Plain C++; errors as in ops_cuda.h, and
// std::bad_alloc where memory is short.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "cuda/machine/device.h"

namespace tsgen::cuda {

// Why no kernel of ours can run on a device; empty where they can. Not for the kernels for CPUs.
std::string obstacle(int64_t device);

// While it lives, `device` is the calling thread's current one; then what was before.
class OnDevice {
 public:
  explicit OnDevice(int64_t device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};

// All of these are for the current device.
void* allocate(size_t n_bytes);
void release(void* memory) noexcept;
size_t free_bytes();
void* new_stream();
void end_stream(void* stream) noexcept;
// Both arrays have to stay where they are until the stream has been waited for.
void copy_in(const Launch& on, void* to, const void* from, size_t n_bytes);
void copy_out(const Launch& on, void* to, const void* from, size_t n_bytes);
void clear(const Launch& on, void* memory, size_t n_bytes);
void wait(const Launch& on);

}  // namespace tsgen::cuda
