// One safetensors file: 8 bytes n, little endian; n bytes of JSON; data, of which each byte belongs
// to exactly one tensor.
#pragma once

#include <memory>
#include <string>

#include "model/file.h"
#include "model/tensors.h"

namespace tsgen {

// The tensors of a file of n_bytes whose sha256 is this; they lie in `memory`, which is allocated
// once the header is known to fit the file. Throws FileError that begins with `where`.
Tensors read_safetensors(const Descriptor& file, int64_t n_bytes, const std::string& sha256,
                         const std::string& where, std::unique_ptr<char[]>& memory);

}  // namespace tsgen
