#include "cuda/machine/device.h"
#include "cuda/machine/launch.cuh"

namespace tsgen::cuda {

#ifdef TSGEN_CUDA_ON_CPU
int64_t device_count() { return 0; }
const char* compiler() { return ""; }
bool on_cpu() { return true; }
#else
#define TSGEN_TEXT(x) #x
#define TSGEN_VERSION(a, b, c) TSGEN_TEXT(a) "." TSGEN_TEXT(b) "." TSGEN_TEXT(c)
const char* compiler() {
  return TSGEN_VERSION(__CUDACC_VER_MAJOR__, __CUDACC_VER_MINOR__, __CUDACC_VER_BUILD__);
}
int64_t device_count() {
  int n = 0;
  return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}
bool on_cpu() { return false; }
#endif

}  // namespace tsgen::cuda
