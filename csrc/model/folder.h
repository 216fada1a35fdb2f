// A saved model's folder: config.json and model.safetensors, see tsgen/checkpoint.py and
// weights.py.
#pragma once

#include <memory>
#include <string>

#include "model/json.h"
#include "model/tensors.h"

namespace tsgen {

struct Saved {
  Json config;                     // what config.json holds under "config"
  std::unique_ptr<char[]> memory;  // of the tensors
  Tensors tensors;
};

// Nothing in it is executed. Throws FileError for anything but a whole, unaltered model.
Saved read_folder(const std::string& path);

}  // namespace tsgen
