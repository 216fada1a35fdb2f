// The CUDA kernels as Python has them: where to run first, then addresses and sizes.
#include <pybind11/pybind11.h>

#include "address.h"
#include "ops_cuda.h"

namespace py = pybind11;
using namespace tsgen::cuda;

namespace {

// The same kernel, taking every pointer as an integer.
template <typename... Args>
auto bind(void (*kernel)(const Launch&, Args...)) {
  return [kernel](int64_t dtype, int64_t device, uintptr_t stream, uintptr_t scratch,
                  FromPython<Args>... args) {
    kernel({(Dtype)dtype, device, (void*)stream, (void*)scratch}, (Args)args...);
  };
}

}  // namespace

void bind_cuda(py::module_& cuda) {
  const py::call_guard<py::gil_scoped_release> no_gil;

  cuda.attr("on_cpu") = on_cpu();
  cuda.def("device_count", &device_count, no_gil);
  cuda.def("keep_confident", bind(keep_confident), no_gil);
  cuda.def("masked_cross_entropy", bind(masked_cross_entropy), no_gil);
  cuda.def("masked_cross_entropy_scratch", &masked_cross_entropy_scratch);
  cuda.def("masked_cross_entropy_backward", bind(masked_cross_entropy_backward), no_gil);
  cuda.def("masked_cross_entropy_backward_scratch", &masked_cross_entropy_backward_scratch);
  cuda.def("sample_code", bind(sample_code), no_gil);
  cuda.def("snake", bind(snake), no_gil);
  cuda.def("snake_backward", bind(snake_backward), no_gil);
  cuda.def("snake_backward_scratch", &snake_backward_scratch);
}
