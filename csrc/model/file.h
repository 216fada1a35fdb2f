// Files and folders of the system, closed when they go out of scope.
#pragma once

#include <cstdint>
#include <string>

namespace tsgen {

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) : number_(other.number_) { other.number_ = -1; }
  ~Descriptor();

  int number() const { return number_; }
  bool is_open() const { return number_ >= 0; }

 private:
  int number_;
};

// Throw FileError that names `path`.
Descriptor open_folder(const std::string& path);
// A regular file of a folder; not open if there is none. Links, pipes and devices are refused.
Descriptor open_inside(const Descriptor& folder, const std::string& name, const std::string& path);
int64_t file_size(const Descriptor& file, const std::string& path);
// Up to n bytes; how many there were.
int64_t read_bytes(const Descriptor& file, char* to, int64_t n, const std::string& path);

}  // namespace tsgen
