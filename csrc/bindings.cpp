// The border with Python: addresses arrive as integers, already checked on the Python side.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "address.h"
#include "machine/isa.h"
#include "machine/parallel.h"
#include "ops.h"
#include "philox.h"

namespace py = pybind11;

void bind_engines(py::module_& m, py::module_& cpu);  // bindings_engine.cpp
void bind_cuda(py::module_& cuda);                    // bindings_cuda.cpp

namespace {

// The same kernel, taking every pointer as an integer.
template <typename... Args>
auto bind(void (*kernel)(Args...)) {
  return [kernel](FromPython<Args>... args) { kernel((Args)args...); };
}

// One block of Philox, for the published test vectors.
py::tuple philox4x32(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  const tsgen::PhiloxWords out = tsgen::philox4x32({{c0, c1, c2, c3}}, k0, k1);
  return py::make_tuple(out.word[0], out.word[1], out.word[2], out.word[3]);
}

// Allow no better instruction set than the one named; returns the one in use.
std::string limit_isa(const std::string& most) {
  using tsgen::cpu::Isa;
  for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
    if (most == tsgen::cpu::name(isa)) return tsgen::cpu::name(tsgen::cpu::limit_isa(isa));
  throw py::value_error("isa: wanted portable, avx2 or avx512, got " + most);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  const py::call_guard<py::gil_scoped_release> no_gil;

  m.attr("sanitized") = tsgen::cpu::sanitized();
  auto cpu = m.def_submodule("cpu");
  cpu.def("limit_isa", &limit_isa);
  cpu.def("lend_threads", &tsgen::cpu::lend_threads);
  cpu.def("isa", [] { return tsgen::cpu::name(tsgen::cpu::isa()); });
  bind_engines(m, cpu);
  cpu.def("stft", bind(tsgen::cpu::stft), no_gil);
  cpu.def("stft_backward", bind(tsgen::cpu::stft_backward), no_gil);
  cpu.def("istft", bind(tsgen::cpu::istft), no_gil);
  cpu.def("istft_backward", bind(tsgen::cpu::istft_backward), no_gil);
  cpu.def("attention", bind(tsgen::cpu::attention), no_gil);
  cpu.def("attention_backward", bind(tsgen::cpu::attention_backward), no_gil);
  cpu.def("sample_code", bind(tsgen::cpu::sample_code), no_gil);
  cpu.def("keep_confident", bind(tsgen::cpu::keep_confident), no_gil);
  cpu.def("masked_cross_entropy", bind(tsgen::cpu::masked_cross_entropy), no_gil);
  cpu.def("masked_cross_entropy_backward", bind(tsgen::cpu::masked_cross_entropy_backward), no_gil);
  cpu.def("nearest_code", bind(tsgen::cpu::nearest_code), no_gil);
  cpu.def("snake", bind(tsgen::cpu::snake), no_gil);
  cpu.def("snake_backward", bind(tsgen::cpu::snake_backward), no_gil);
  cpu.def("separable_conv", bind(tsgen::cpu::separable_conv), no_gil);
  cpu.def("separable_conv_backward", bind(tsgen::cpu::separable_conv_backward), no_gil);
  cpu.def("sum_taps", bind(tsgen::cpu::sum_taps), no_gil);
  cpu.def("sum_taps_backward", bind(tsgen::cpu::sum_taps_backward), no_gil);
  cpu.def("dropout", bind(tsgen::cpu::dropout), no_gil);
  cpu.def("philox", bind(tsgen::cpu::philox), no_gil);
  cpu.def("philox4x32", &philox4x32);

#ifdef TSGEN_WITH_CUDA
  auto cuda = m.def_submodule("cuda");
  bind_cuda(cuda);
#endif
}
