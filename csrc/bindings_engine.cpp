// The engines as Python has them: settings as dicts of numbers, arrays as addresses.
#include "bindings_engine.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

namespace py = pybind11;
using namespace tsgen::cpu;
using tsgen::ModelEngine;

namespace {

int64_t size(const py::dict& sizes, const char* name) { return sizes[name].cast<int64_t>(); }

template <typename T>
T* address(uintptr_t at) {
  return reinterpret_cast<T*>(at);
}

// Looks for Ctrl-C ten times a second; the signal stays Python's to handle.
struct Interrupt {
  using Clock = std::chrono::steady_clock;
  mutable Clock::time_point next = Clock::now() + std::chrono::milliseconds(100);

  static bool asked(const void* self, int64_t) {
    const Interrupt& own = *static_cast<const Interrupt*>(self);
    if (Clock::now() < own.next) return false;
    own.next = Clock::now() + std::chrono::milliseconds(100);
    const py::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
  }
};

// bands: (settings, plan, ids) each. Returns whether all logits were finite.
bool sample(const ModelEngine& engine, int64_t n, uintptr_t index, uintptr_t class_id,
            const py::list& bands, uintptr_t series, int64_t n_threads) {
  EngineRequest request{n,
                        address<const int64_t>(index),
                        address<const int64_t>(class_id),
                        {},
                        address<float>(series)};
  for (const py::handle item : bands) {
    const py::tuple band = item.cast<py::tuple>();
    const py::dict how = band[0].cast<py::dict>();
    const Settings settings{size(how, "steps"),
                            size(how, "band"),
                            how["seed"].cast<uint64_t>(),
                            how["temperature"].cast<double>(),
                            how["choice_temperature"].cast<double>(),
                            how["guidance"].cast<double>(),
                            size(how, "top_k"),
                            how["top_p"].cast<double>()};
    request.band.push_back({settings, address<const int64_t>(band[1].cast<uintptr_t>()),
                            address<int64_t>(band[2].cast<uintptr_t>())});
  }
  const Interrupt interrupt;
  Outcome outcome;
  {
    const py::gil_scoped_release no_gil;
    outcome = engine.sample(request, n_threads, Interrupt::asked, &interrupt);
  }
  if (outcome == Outcome::stopped) throw py::error_already_set();
  return outcome == Outcome::done;
}

void decode(const ModelEngine& engine, const std::vector<uintptr_t>& ids, int64_t n,
            uintptr_t series, int64_t n_threads) {
  std::vector<const int64_t*> bands;
  for (const uintptr_t at : ids) bands.push_back(address<const int64_t>(at));
  const py::gil_scoped_release no_gil;
  engine.decode(bands, n, address<float>(series), n_threads);
}

void encode(const ModelEngine& engine, uintptr_t x, int64_t n, const std::vector<uintptr_t>& ids,
            int64_t n_threads) {
  std::vector<int64_t*> bands;
  for (const uintptr_t at : ids) bands.push_back(address<int64_t>(at));
  const py::gil_scoped_release no_gil;
  engine.encode(address<const float>(x), n, bands, n_threads);
}

}  // namespace

Network network_of(const std::string& config, const py::list& state) {
  Network network{tsgen::parse_config(tsgen::parse_json(config, "config")), {}};
  for (const py::handle item : state) {
    const auto [name, shape, data, wide] =
        item.cast<std::tuple<std::string, std::vector<int64_t>, uintptr_t, bool>>();
    network.state[name] = {wide ? tsgen::DType::f64 : tsgen::DType::f32, shape,
                           address<void>(data)};
  }
  return network;
}

void bind_engines(py::module_& m, py::module_& cpu) {
  py::class_<ModelEngine>(m, "Engine")
      .def_property_readonly("at_once", [](const ModelEngine& engine) { return engine.at_once(1); })
      .def("sample", &sample)
      .def("decode", &decode)
      .def("encode", &encode);
  cpu.def("Engine", [](const std::string& config, const py::list& state, int64_t n_threads) {
    const Network network = network_of(config, state);
    const py::gil_scoped_release no_gil;
    return tsgen::cpu_engine(network.config, network.state, n_threads);
  });
}
