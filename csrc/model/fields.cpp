#include "model/fields.h"

#include <algorithm>
#include <cmath>

#include "model/error.h"

namespace tsgen {
namespace {

int64_t as_whole(const std::string& name, const Json& value) {
  if (value.kind != Json::Kind::whole) throw bad_value(name, "a whole number", value.shown());
  return value.whole;
}

double as_number(const std::string& name, const Json& value) {
  if (value.kind != Json::Kind::whole && value.kind != Json::Kind::number)
    throw bad_value(name, "a number", value.shown());
  return value.number;
}

template <typename T, typename Read>
std::vector<T> as_list(const std::string& name, const Json& value, const Read& read) {
  if (value.kind != Json::Kind::list) throw bad_value(name, "a list of numbers", value.shown());
  std::vector<T> out;
  for (const Json& item : value.items) out.push_back(read(name, item));
  return out;
}

}  // namespace

void check_whole(const std::string& name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  throw bad_value(name,
                  "a whole number from " + std::to_string(least) + " to " + std::to_string(most),
                  std::to_string(value));
}

void check_number(const std::string& name, double value, double least, double below, bool more) {
  const bool fits = std::fabs(value) <= 1e300 && value >= least && value < below;
  if (fits && !(more && value == least)) return;
  const std::string low = more ? "above " : "from ";
  const std::string high = std::isinf(below) ? "" : " and below " + std::to_string(below);
  throw bad_value(name, "a finite number " + low + std::to_string(least) + high,
                  std::to_string(value));
}

Fields::Fields(const Json& object, std::string what) : object_(object), what_(std::move(what)) {
  if (object.kind != Json::Kind::object) throw bad_value(what_, "an object", object.shown());
}

const Json* Fields::find(const char* name) {
  asked_.push_back(name);
  return object_.find(name);
}

const Json& Fields::required(const char* name) {
  if (const Json* const value = find(name)) return *value;
  throw bad_value(what_, quoted(name), "none");
}

int64_t Fields::whole(const char* name) { return as_whole(name, required(name)); }

int64_t Fields::whole(const char* name, int64_t otherwise) {
  const Json* const value = find(name);
  return value ? as_whole(name, *value) : otherwise;
}

double Fields::number(const char* name, double otherwise) {
  const Json* const value = find(name);
  return value ? as_number(name, *value) : otherwise;
}

std::vector<int64_t> Fields::wholes(const char* name, std::vector<int64_t> otherwise) {
  const Json* const value = find(name);
  return value ? as_list<int64_t>(name, *value, as_whole) : otherwise;
}

std::vector<double> Fields::numbers(const char* name, std::vector<double> otherwise) {
  const Json* const value = find(name);
  return value ? as_list<double>(name, *value, as_number) : otherwise;
}

int64_t Fields::choice(const char* name, const std::vector<std::string>& choices) {
  const Json* const value = find(name);
  if (!value) return 0;
  const auto found = value->kind == Json::Kind::text
                         ? std::find(choices.begin(), choices.end(), value->text)
                         : choices.end();
  if (found != choices.end()) return found - choices.begin();
  std::string wanted = "one of";
  for (const std::string& choice : choices) wanted += " " + choice;
  throw bad_value(name, wanted, value->shown());
}

void Fields::end() const {
  for (const std::string& name : object_.names)
    if (std::find(asked_.begin(), asked_.end(), name) == asked_.end())
      throw bad_value(what_, "fields that this version knows", quoted(name));
}

}  // namespace tsgen
