// SHA-256, FIPS 180-4.
#pragma once

#include <cstdint>
#include <string>

namespace tsgen {

class Sha256 {
 public:
  void update(const void* data, int64_t n);
  std::string hex();  // of all so far, 64 digits; the end

 private:
  void block(const unsigned char* data);

  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  unsigned char rest_[64];
  int64_t n_ = 0;
};

}  // namespace tsgen
