#include "cuda/machine/device.h"
#include "cuda/machine/launch.cuh"

namespace tsgen::cuda {

#ifdef TSGEN_CUDA_ON_CPU
int64_t device_count() { return 0; }
bool on_cpu() { return true; }
#else
int64_t device_count() {
  int n = 0;
  return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}
bool on_cpu() { return false; }
#endif

}  // namespace tsgen::cuda
