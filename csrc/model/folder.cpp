#include "model/folder.h"

#include <algorithm>

#include "model/error.h"
#include "model/file.h"
#include "model/safetensors.h"

namespace tsgen {
namespace {

constexpr int64_t SCHEMA = 1, MOST_CONFIG = 1'000'000;
constexpr int64_t MOST_BYTES = (int64_t)16 << 30;  // of weights
constexpr int READS = 100;                         // attempts: another process may just write
const char* const CONFIG = "config.json";
const char* const WEIGHTS = "model.safetensors";

// What config.json says.
struct Record {
  Json config;
  std::string sha256;
  int64_t n_bytes;

  // Name of the weights until they replace the ones before.
  std::string pending() const { return "model-" + sha256.substr(0, 16) + ".safetensors"; }
};

std::string read_config(const Descriptor& folder, const std::string& path) {
  const Descriptor file = open_inside(folder, CONFIG, path);
  if (!file.is_open())
    throw FileError(path + ": wanted a folder with config.json and model.safetensors, got one " +
                    "without config.json");
  std::string text(MOST_CONFIG + 1, ' ');
  text.resize(read_bytes(file, text.data(), MOST_CONFIG + 1, path + "/" + CONFIG));
  return text;
}

bool is_sha256(const Json* value) {
  return value && value->kind == Json::Kind::text && value->text.size() == 64 &&
         value->text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

Record parse_record(const std::string& text, const std::string& where) {
  const auto refuse = [&](const std::string& wanted, const Json* got) {
    return FileError(where + ": wanted " + wanted + ", got " + (got ? got->shown() : "none"));
  };
  if ((int64_t)text.size() > MOST_CONFIG)
    throw FileError(where + ": wanted at most " + std::to_string(MOST_CONFIG) + " bytes, got more");
  const Json values = parse_json(text, where);
  const Json *const schema = values.find("schema"), *const kind = values.find("kind");
  if (!schema || schema->kind != Json::Kind::whole)
    throw refuse("a model of tsgen with a schema number", schema);
  if (schema->whole != SCHEMA)
    throw FileError(where + ": wanted schema " + std::to_string(SCHEMA) + ", got " +
                    schema->shown() + ": upgrade tsgen");
  if (!kind || kind->text != "model") throw refuse("a model, kind 'model'", kind);
  const Json *const entry = values.find("weights"), *const config = values.find("config");
  if (!entry || entry->kind != Json::Kind::object) throw refuse("an object as weights", entry);
  if (!config || config->kind != Json::Kind::object) throw refuse("an object as config", config);
  const Json *const file = entry->find("file"), *const sha256 = entry->find("sha256"),
                    *const bytes = entry->find("bytes");
  // one name: nothing to escape from the folder with
  if (!file || file->text != WEIGHTS) throw refuse("'model.safetensors' as file", file);
  if (!is_sha256(sha256)) throw refuse("64 hex digits as sha256", sha256);
  if (!bytes || bytes->kind != Json::Kind::whole || bytes->whole < 0)
    throw refuse("a size as bytes", bytes);
  return {*config, sha256->text, bytes->whole};
}

// The weights that config.json speaks of, under either name.
Descriptor open_weights(const Descriptor& folder, const Record& record, const std::string& path) {
  Descriptor pending = open_inside(folder, record.pending(), path);
  if (pending.is_open()) return pending;
  Descriptor file = open_inside(folder, WEIGHTS, path);
  if (file.is_open()) return file;
  throw FileError(path + ": wanted model.safetensors beside config.json, got none");
}

Saved read_weights(const Descriptor& folder, Record record, const std::string& path) {
  const Descriptor file = open_weights(folder, record, path);
  const std::string where = path + "/" + WEIGHTS;
  const int64_t n_bytes = file_size(file, where);
  if (n_bytes != record.n_bytes)
    throw FileError(where + ": wanted " + std::to_string(record.n_bytes) +
                    " bytes as config.json says, got " + std::to_string(n_bytes) +
                    ": it is damaged");
  if (n_bytes > MOST_BYTES)
    throw FileError(where + ": wanted at most " + std::to_string(MOST_BYTES) + " bytes, got " +
                    std::to_string(n_bytes));
  Saved saved{std::move(record.config), nullptr, {}};
  saved.tensors = read_safetensors(file, n_bytes, record.sha256, where, saved.memory);
  return saved;
}

}  // namespace

Saved read_folder(const std::string& path) {
  const Descriptor folder = open_folder(path);
  std::string text = read_config(folder, path);
  for (int i = 0; i < READS; ++i) {
    try {
      return read_weights(folder, parse_record(text, path + "/" + CONFIG), path);
    } catch (const FileError&) {
      std::string again = read_config(folder, path);
      if (again == text) throw;
      text = std::move(again);  // replaced while it was read
    }
  }
  throw FileError(path + ": wanted a model, got " + std::to_string(READS) +
                  " new ones while reading");
}

}  // namespace tsgen
