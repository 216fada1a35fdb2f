#include "cuda/machine/device.h"
#include "cuda/machine/launch.cuh"

namespace tsgen::cuda {

#ifdef TSGEN_CUDA_ON_CPU
int64_t device_count() { return 0; }
int64_t n_processors(int64_t) { return 4; }
int64_t most_shared(int64_t) { return 227 * 1024; }  // as Hopper
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
int64_t attribute(cudaDeviceAttr which, int64_t device) {
  int n = 0;
  check(cudaDeviceGetAttribute(&n, which, (int)device));
  return n;
}
int64_t n_processors(int64_t device) { return attribute(cudaDevAttrMultiProcessorCount, device); }
int64_t most_shared(int64_t device) {
  return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
}
bool on_cpu() { return false; }
#endif

}  // namespace tsgen::cuda
