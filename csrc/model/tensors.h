// Named tensors, as a network's state has them: somebody else's memory, contiguous.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace tsgen {

enum class DType { f16, f32, f64, other };

struct Tensor {
  DType dtype;
  std::vector<int64_t> shape;
  const void* data;
};

using Tensors = std::unordered_map<std::string, Tensor>;

using Doubles = std::vector<double>;
using Floats = std::vector<float>;

// Tensors whose names begin alike: those of one module.
class Scope {
 public:
  explicit Scope(const Tensors& tensors, std::string prefix = "")
      : tensors_(&tensors), prefix_(std::move(prefix)) {}

  Scope operator[](const std::string& module) const {
    return Scope(*tensors_, prefix_ + module + ".");
  }
  Scope operator[](int64_t i) const { return (*this)[std::to_string(i)]; }

  // The numbers of one tensor. Throws std::invalid_argument if it is missing or another shape's.
  Doubles doubles(const char* name, const std::vector<int64_t>& shape) const;
  Floats floats(const char* name, const std::vector<int64_t>& shape) const;

 private:
  template <typename T>
  std::vector<T> numbers(const char* name, const std::vector<int64_t>& shape) const;

  const Tensors* tensors_;
  std::string prefix_;
};

}  // namespace tsgen
