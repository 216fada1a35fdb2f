#include <cstdlib>
#include <cstring>
#include <new>

#include "cuda/machine/launch.cuh"
#include "cuda/machine/memory.h"

namespace tsgen::cuda {

#ifdef TSGEN_CUDA_ON_CPU

std::string obstacle(int64_t) { return ""; }
OnDevice::OnDevice(int64_t) {}
OnDevice::~OnDevice() {}
void* allocate(size_t n_bytes) {
  // aligned as cudaMalloc's is, and full of NaN: what is read before it is written shows
  void* const memory = std::aligned_alloc(256, (n_bytes + 255) / 256 * 256);
  if (!memory) throw std::bad_alloc();
  return std::memset(memory, 0xff, n_bytes);
}
void release(void* memory) noexcept { std::free(memory); }
size_t free_bytes() { return (size_t)1 << 22; }  // little: what is asked for goes in parts
void* new_stream() { return nullptr; }
void end_stream(void*) noexcept {}
void copy_in(const Launch&, void* to, const void* from, size_t n) { std::memcpy(to, from, n); }
void copy_out(const Launch&, void* to, const void* from, size_t n) { std::memcpy(to, from, n); }
void clear(const Launch&, void* memory, size_t n_bytes) { std::memset(memory, 0, n_bytes); }
void wait(const Launch&) {}

#else

constexpr int OLDEST = 8;  // compute capability that kernels are compiled for, see CMakeLists.txt

std::string obstacle(int64_t device) {
  int n = 0, major = 0, minor = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&n); error != cudaSuccess) {
    cudaGetLastError();  // so that no later call finds it
    return cudaGetErrorString(error);
  }
  if (device < 0 || device >= n) return "there are " + std::to_string(n) + " GPUs";
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, (int)device));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, (int)device));
  if (major >= OLDEST) return "";
  return "compute capability " + std::to_string(major) + "." + std::to_string(minor) +
         " is older than " + std::to_string(OLDEST) + ".0";
}

OnDevice::OnDevice(int64_t device) {
  check(cudaGetDevice(&before_));
  check(cudaSetDevice((int)device));
}
OnDevice::~OnDevice() {
  if (cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();  // so that no later call finds it
}

void* allocate(size_t n_bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, n_bytes));
  return memory;
}
void release(void* memory) noexcept { cudaFree(memory); }
size_t free_bytes() {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total));
  return free;
}
void* new_stream() {
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}
void end_stream(void* stream) noexcept { cudaStreamDestroy((cudaStream_t)stream); }
void copy_in(const Launch& on, void* to, const void* from, size_t n_bytes) {
  check(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyHostToDevice, (cudaStream_t)on.stream));
}
void copy_out(const Launch& on, void* to, const void* from, size_t n_bytes) {
  check(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToHost, (cudaStream_t)on.stream));
}
void clear(const Launch& on, void* memory, size_t n_bytes) {
  check(cudaMemsetAsync(memory, 0, n_bytes, (cudaStream_t)on.stream));
}
void wait(const Launch& on) { check(cudaStreamSynchronize((cudaStream_t)on.stream)); }

#endif

}  // namespace tsgen::cuda
