// The CUDA kernels as Python has them: where to run first, then addresses and sizes.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <vector>

#include "address.h"
#include "bindings_engine.h"
#include "cuda/engine/engine.h"
#include "cuda/machine/memory.h"
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

DecodeSizes sizes_of(const py::dict& z) {
  const auto n = [&](const char* name) { return z[name].cast<int>(); };
  const auto x = [&](const char* name) { return z[name].cast<float>(); };
  const BlockSizes block{n("T"), n("D"), n("H"), n("Dh"), n("F"), n("down_stride"), x("eps")};
  return {block,     n("N"),      n("K"),        n("n_layers"), n("n_classes"),
          n("band"), n("guided"), x("guidance"), x("sharpness")};
}

// The addresses stand in the order of the structs, see persistent.py.
void decode_band(int64_t dtype, int64_t device, uintptr_t stream,
                 const std::vector<std::vector<uintptr_t>>& layers,
                 const std::vector<uintptr_t>& tables, const std::vector<uintptr_t>& request,
                 int64_t B, const py::dict& sizes, const std::vector<int>& left,
                 const std::vector<double>& noise) {
  if (layers.size() > MOST_LAYERS || left.size() > MOST_STEPS || left.size() != noise.size())
    throw py::value_error("layers, plan: wanted fewer, got more than the kernel takes");
  DecodeTables to{};
  for (size_t l = 0; l < layers.size(); ++l)
    for (int i = 0; i < LAYER_TENSORS; ++i) to.layer[l][i] = (const void*)layers[l].at(i);
  const auto m = [&](int i) { return (const void*)tables.at(i); };
  const auto f = [&](int i) { return (const float*)tables.at(i); };
  to.tokens = m(0), to.first = m(1), to.head_in = m(2), to.head = m(3);
  to.places = f(4), to.classes = f(5), to.head_in_bias = f(6);
  to.head_gain = f(7), to.head_shift = f(8), to.head_bias = f(9);
  const auto ids = [&](int i) { return (int64_t*)request.at(i); };
  const DecodeRequest asked{
      B, ids(0), ids(1), ids(2), (const void*)request.at(3), ids(4), (uint8_t*)request.at(5)};
  DecodePlan plan{(int)left.size(), {}, {}};
  std::copy(left.begin(), left.end(), plan.left);
  std::copy(noise.begin(), noise.end(), plan.noise);
  const DecodeSizes z = sizes_of(sizes);
  const py::gil_scoped_release no_gil;
  decode({(Dtype)dtype, device, (void*)stream, nullptr}, to, z, asked, plan);
}

}  // namespace

void bind_cuda(py::module_& cuda) {
  const py::call_guard<py::gil_scoped_release> no_gil;

  cuda.attr("on_cpu") = on_cpu();
  cuda.attr("compiler") = compiler();
  cuda.def("device_count", &device_count, no_gil);
  cuda.def("obstacle", &obstacle, no_gil);
  cuda.def("Engine",
           [](const std::string& config, const py::list& state, int64_t n_threads, int64_t device) {
             const Network network = network_of(config, state);
             const py::gil_scoped_release no_gil;
             return make_engine(network.config, network.state, n_threads, device);
           });
  cuda.def("most_shared", &most_shared, no_gil);
  cuda.def("stft", bind(stft), no_gil);
  cuda.def("stft_backward", bind(stft_backward), no_gil);
  cuda.def("stft_scratch", &stft_scratch);
  cuda.def("stft_backward_scratch", &stft_scratch);
  cuda.def("istft", bind(istft), no_gil);
  cuda.def("istft_backward", bind(istft_backward), no_gil);
  cuda.def("istft_scratch", &istft_scratch);
  cuda.def("istft_backward_scratch", &istft_scratch);
  cuda.def("attention", bind(attention), no_gil);
  cuda.def("attention_backward", bind(attention_backward), no_gil);
  cuda.def("attention_backward_scratch", &attention_backward_scratch);
  cuda.def("dropout", bind(dropout), no_gil);
  cuda.def("keep_confident", bind(keep_confident), no_gil);
  cuda.def("nearest_code", bind(nearest_code), no_gil);
  cuda.def("nearest_code_scratch", &nearest_code_scratch);
  cuda.def("philox", bind(philox), no_gil);
  cuda.def("masked_cross_entropy", bind(masked_cross_entropy), no_gil);
  cuda.def("masked_cross_entropy_scratch", &masked_cross_entropy_scratch);
  cuda.def("masked_cross_entropy_backward", bind(masked_cross_entropy_backward), no_gil);
  cuda.def("masked_cross_entropy_backward_scratch", &masked_cross_entropy_backward_scratch);
  cuda.def("sample_code", bind(sample_code), no_gil);
  cuda.def("snake", bind(snake), no_gil);
  cuda.def("snake_backward", bind(snake_backward), no_gil);
  cuda.def("snake_backward_scratch", &snake_backward_scratch);
  cuda.def("decode", &decode_band);
  cuda.def("decode_shared", [](const py::dict& sizes) { return decode_shared(sizes_of(sizes)); });
  cuda.def("transformer_block", bind(transformer_block), no_gil);
  cuda.def("transformer_block_shared", &transformer_block_shared);
}
