// Where a kernel runs, and what CUDA says of the machine. Plain C++.
#pragma once

#include <cstdint>

namespace tsgen::cuda {

enum class Dtype : int64_t { float32, float16, bfloat16, float64 };

struct Launch {
  Dtype dtype;     // of the op's first tensor, and of all that is not said to be another
  int64_t device;  // its index
  void* stream;    // a cudaStream_t
  void* scratch;   // as many bytes as <op>_scratch says, if there is such a function
};

// How many GPUs there are; 0 without a driver, too.
int64_t device_count();
// How many multiprocessors a device has.
int64_t n_processors(int64_t device);
// Bytes of shared memory that a block on a device may have.
int64_t most_shared(int64_t device);
// What compiled the kernels, "13.0.88"; nothing if they are for CPUs.
const char* compiler();
// Whether the kernels are the ones for CPUs, of csrc/cuda_on_cpu.
bool on_cpu();

}  // namespace tsgen::cuda
