// JSON from a stranger: finite numbers, each key once, nested no deeper than MOST_LEVELS.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tsgen {

struct Json {
  enum class Kind { null, boolean, whole, number, text, list, object };

  Kind kind = Kind::null;
  bool boolean = false;
  int64_t whole = 0;
  double number = 0;  // of a whole one, too
  std::string text;   // UTF-8
  std::vector<std::string> names;
  std::vector<Json> items;  // of a list, or behind the names of an object

  const Json* find(const std::string& name) const;  // null if there is none
  std::string shown() const;                        // for messages: not long, nothing to print raw
};

constexpr int MOST_LEVELS = 32;

// The value that `raw` spells. Throws FileError that begins with `where`.
Json parse_json(const std::string& raw, const std::string& where);

// A text in quotes for a message: ASCII, not long.
std::string quoted(const std::string& text);

}  // namespace tsgen
