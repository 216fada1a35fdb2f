// What goes wrong: every text names the argument, what was wanted and what came.
#pragma once

#include <stdexcept>
#include <string>

namespace tsgen {

// A file is missing, damaged, hostile, or of another version.
struct FileError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A model's own numbers are not finite.
struct NotFinite : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What works, but not here.
struct Unsupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The error for an unusable value; throw what it returns.
inline std::invalid_argument bad_value(const std::string& argument, const std::string& wanted,
                                       const std::string& got) {
  return std::invalid_argument(argument + ": wanted " + wanted + ", got " + got);
}

}  // namespace tsgen
