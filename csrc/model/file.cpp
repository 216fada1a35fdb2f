#include "model/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "model/error.h"

namespace tsgen {
namespace {

FileError because(const std::string& path, int error) {
  return FileError(path + ": " + std::generic_category().message(error));
}

}  // namespace

Descriptor::~Descriptor() {
  if (is_open()) close(number_);
}

Descriptor open_folder(const std::string& path) {
  Descriptor folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.is_open()) return folder;
  if (errno == ENOENT) throw FileError(path + ": wanted a folder, got nothing of that name");
  if (errno == ENOTDIR) throw FileError(path + ": wanted a folder, got a file");
  throw because(path, errno);
}

Descriptor open_inside(const Descriptor& folder, const std::string& name, const std::string& path) {
  const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;  // a pipe must not block
  Descriptor file(openat(folder.number(), name.c_str(), flags));
  const std::string where = path + "/" + name;
  if (!file.is_open() && errno == ENOENT) return file;
  if (!file.is_open() && errno == ELOOP)
    throw FileError(where + ": wanted a file, got a symbolic link; copy what it points to");
  if (!file.is_open()) throw because(where, errno);
  struct stat about;
  if (fstat(file.number(), &about) != 0) throw because(where, errno);
  if (!S_ISREG(about.st_mode)) throw FileError(where + ": wanted a regular file");
  return file;
}

int64_t file_size(const Descriptor& file, const std::string& path) {
  struct stat about;
  if (fstat(file.number(), &about) != 0) throw because(path, errno);
  return about.st_size;
}

int64_t read_bytes(const Descriptor& file, char* to, int64_t n, const std::string& path) {
  int64_t done = 0;
  while (done < n) {
    const ssize_t got = read(file.number(), to + done, std::min<int64_t>(n - done, 1 << 30));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw because(path, errno);
    if (got == 0) break;
    done += got;
  }
  return done;
}

}  // namespace tsgen
