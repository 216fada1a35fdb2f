// A network as Python brings it, for whatever makes an engine of it.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "model/engine.h"

struct Network {
  tsgen::ModelConfig config;
  tsgen::Tensors state;
};

// Its configuration as JSON, and (name, shape, address, whether in float64 and not in float32) of
// every tensor of its state. Throws std::invalid_argument.
Network network_of(const std::string& config, const pybind11::list& state);
