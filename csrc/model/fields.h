// The fields of a JSON object, each asked for once; what nobody asks for is refused.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "model/json.h"

namespace tsgen {

constexpr int64_t LARGEST = 1 << 24;  // of every size

void check_whole(const std::string& name, int64_t value, int64_t least, int64_t most = LARGEST);
// From `least` on, or above it if `more`, and below `below`.
void check_number(const std::string& name, double value, double least,
                  double below = std::numeric_limits<double>::infinity(), bool more = false);

class Fields {
 public:
  Fields(const Json& object, std::string what);

  const Json* find(const char* name);  // null if it is missing
  const Json& required(const char* name);
  int64_t whole(const char* name);  // required
  int64_t whole(const char* name, int64_t otherwise);
  double number(const char* name, double otherwise);
  std::vector<int64_t> wholes(const char* name, std::vector<int64_t> otherwise);
  std::vector<double> numbers(const char* name, std::vector<double> otherwise);
  // The position of the text among the choices.
  int64_t choice(const char* name, const std::vector<std::string>& choices);
  void end() const;  // refuses what was not asked for

 private:
  const Json& object_;
  std::string what_;
  std::vector<std::string> asked_;
};

}  // namespace tsgen
