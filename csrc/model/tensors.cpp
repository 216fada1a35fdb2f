#include "model/tensors.h"

#include <cstring>

#include "model/error.h"

namespace tsgen {
namespace {

std::string shown(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t n : shape) text += (text.empty() ? "" : ", ") + std::to_string(n);
  return "(" + text + ")";
}

// A half in IEEE 754's 16 bits; all of them are floats.
float widened(uint16_t half) {
  const uint32_t sign = (uint32_t)(half >> 15) << 31, exponent = half >> 10 & 31;
  const uint32_t fraction = half & 1023;
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  const uint32_t bits = sign | wide << 23 | fraction << 13;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

}  // namespace

template <typename T>
std::vector<T> Scope::numbers(const char* name, const std::vector<int64_t>& shape) const {
  const auto found = tensors_->find(prefix_ + name);
  if (found == tensors_->end()) throw bad_value(prefix_ + name, "a tensor", "none");
  const Tensor& tensor = found->second;
  if (tensor.shape != shape) throw bad_value(prefix_ + name, shown(shape), shown(tensor.shape));
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  const auto all = [&](auto from, const auto& convert) {
    std::vector<T> out(n);
    for (int64_t i = 0; i < n; ++i) {
      // a file's tensors begin at any byte
      std::memcpy(&from, static_cast<const char*>(tensor.data) + i * sizeof from, sizeof from);
      out[i] = (T)convert(from);
    }
    return out;
  };
  switch (tensor.dtype) {
    case DType::f16:
      return all(uint16_t(), widened);
    case DType::f32:
      return all(float(), [](float x) { return x; });
    case DType::f64:
      return all(double(), [](double x) { return x; });
    default:
      throw bad_value(prefix_ + name, "a tensor of floats", "another dtype");
  }
}

Doubles Scope::doubles(const char* name, const std::vector<int64_t>& shape) const {
  return numbers<double>(name, shape);
}

Floats Scope::floats(const char* name, const std::vector<int64_t>& shape) const {
  return numbers<float>(name, shape);
}

}  // namespace tsgen
