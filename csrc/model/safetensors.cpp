#include "model/safetensors.h"

#include <algorithm>
#include <map>
#include <vector>

#include "model/error.h"
#include "model/json.h"
#include "model/sha256.h"

namespace tsgen {
namespace {

constexpr int64_t MOST_HEADER = 2 << 20;  // as weights.py has it
constexpr size_t MOST_TENSORS = 10'000, MOST_DIMS = 32;

const std::map<std::string, int64_t> BYTES = {
    {"BOOL", 1},    {"U8", 1},  {"I8", 1},   {"I16", 2}, {"I32", 4},
    {"I64", 8},     {"U16", 2}, {"U32", 4},  {"U64", 8}, {"F8_E4M3", 1},
    {"F8_E5M2", 1}, {"F16", 2}, {"BF16", 2}, {"F32", 4}, {"F64", 8}};

struct Entry {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  int64_t begin, end;  // bytes from the end of the header
};

DType kind(const std::string& dtype) {
  return dtype == "F16"   ? DType::f16
         : dtype == "F32" ? DType::f32
         : dtype == "F64" ? DType::f64
                          : DType::other;
}

// A list of whole numbers from 0 on, or an error that it is none.
std::vector<int64_t> sizes(const Json& value, const std::string& wanted, const std::string& where) {
  std::vector<int64_t> out;
  for (const Json& item : value.items) {
    if (item.kind != Json::Kind::whole || item.whole < 0) break;
    out.push_back(item.whole);
  }
  if (value.kind != Json::Kind::list || out.size() != value.items.size())
    throw FileError(where + ": wanted " + wanted + ", got " + value.shown());
  return out;
}

Entry parse_entry(const std::string& name, const Json& value, const std::string& file) {
  const std::string where = file + ": tensor " + quoted(name);
  const Json *const dtype = value.find("dtype"), *const shape = value.find("shape"),
                    *const offsets = value.find("data_offsets");
  if (!dtype || !shape || !offsets || value.items.size() != 3)
    throw FileError(where + ": wanted dtype, shape and data_offsets, got " + value.shown());
  const auto found = BYTES.find(dtype->text);
  if (found == BYTES.end()) throw FileError(where + ": wanted a dtype, got " + dtype->shown());
  Entry entry{name, kind(dtype->text), sizes(*shape, "a shape", where), 0, 0};
  int64_t n = found->second, allocated = 1;  // none of the sizes overflows, 0 among them or not
  for (const int64_t size : entry.shape) {
    if (entry.shape.size() > MOST_DIMS || std::max<int64_t>(size, 1) >= (1LL << 60) / allocated)
      throw FileError(where + ": wanted a shape that fits in memory, got " + shape->shown());
    n *= size, allocated *= std::max<int64_t>(size, 1);
  }
  const std::vector<int64_t> ends = sizes(*offsets, "two data_offsets", where);
  if (ends.size() != 2 || ends[1] - ends[0] != n)
    throw FileError(where + ": wanted data_offsets " + std::to_string(n) + " bytes apart, got " +
                    (ends.size() == 2 ? std::to_string(ends[1] - ends[0]) : offsets->shown()));
  entry.begin = ends[0], entry.end = ends[1];
  return entry;
}

// The tensors that a header lists, in the order of their data, which they cover without a gap.
std::vector<Entry> parse_header(const std::string& raw, int64_t n_data, const std::string& where) {
  if (raw[0] != '{') throw FileError(where + ": wanted a safetensors header");
  const Json values = parse_json(raw, where + ": header");
  if (values.items.size() > MOST_TENSORS + 1)
    throw FileError(where + ": wanted at most " + std::to_string(MOST_TENSORS) + " tensors, got " +
                    std::to_string(values.items.size()));
  std::vector<Entry> entries;
  for (size_t i = 0; i < values.items.size(); ++i)
    if (values.names[i] != "__metadata__")
      entries.push_back(parse_entry(values.names[i], values.items[i], where));
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  int64_t at = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != at)
      throw FileError(where + ": tensor " + quoted(entry.name) +
                      (entry.begin < at ? ": overlap" : ": a gap") + " at byte " +
                      std::to_string(at) + " of the data");
    at = entry.end;
  }
  if (at != n_data)
    throw FileError(where + ": wanted " + std::to_string(at) +
                    " bytes of data as its header says, got " + std::to_string(n_data));
  return entries;
}

}  // namespace

Tensors read_safetensors(const Descriptor& file, int64_t n_bytes, const std::string& sha256,
                         const std::string& where, std::unique_ptr<char[]>& memory) {
  Sha256 digest;
  const auto fill = [&](char* to, int64_t n) {
    if (read_bytes(file, to, n, where) != n) throw FileError(where + ": ended while it was read");
    digest.update(to, n);
  };
  unsigned char prefix[8] = {};
  fill(reinterpret_cast<char*>(prefix), std::min<int64_t>(8, n_bytes));
  uint64_t n_header = 0;
  for (int i = 7; i >= 0; --i) n_header = n_header << 8 | prefix[i];
  if (n_bytes < 10 || n_header < 2 || n_header > (uint64_t)std::min(MOST_HEADER, n_bytes - 8))
    throw FileError(where + ": wanted a safetensors header of at most " +
                    std::to_string(MOST_HEADER) + " bytes, inside the " + std::to_string(n_bytes) +
                    " bytes of the file, got " + std::to_string(n_header));
  std::string header(n_header, ' ');
  fill(header.data(), (int64_t)n_header);
  const int64_t n_data = n_bytes - 8 - (int64_t)n_header;
  const std::vector<Entry> entries = parse_header(header, n_data, where);
  memory.reset(new char[n_data]);
  fill(memory.get(), n_data);
  if (const std::string found = digest.hex(); found != sha256)
    throw FileError(where + ": wanted the sha256 " + sha256.substr(0, 12) +
                    "... that config.json names, got " + found.substr(0, 12) +
                    "...: it is damaged");
  Tensors tensors;
  for (const Entry& entry : entries)
    tensors[entry.name] = {entry.dtype, entry.shape, memory.get() + entry.begin};
  return tensors;
}

}  // namespace tsgen
