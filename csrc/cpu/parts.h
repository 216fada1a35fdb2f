// Sums that tasks leave behind, added up in their order: the same for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tsgen::cpu {

constexpr int64_t AT_ONCE = 1024;  // numbers of each part that are added up in one go

// out[i] = Σ parts[part, i], as Sum, for AT_ONCE of the i from `begin` on.
template <typename Sum, typename T>
void add_parts(const T* parts, int64_t n_parts, int64_t size, int64_t begin, T* out) {
  Sum total[AT_ONCE]{};
  const int64_t n = std::min(AT_ONCE, size - begin);
  for (int64_t part = 0; part < n_parts; ++part)
    for (int64_t i = 0; i < n; ++i) total[i] += parts[part * size + begin + i];
  for (int64_t i = 0; i < n; ++i) out[begin + i] = (T)total[i];
}

// All of them.
template <typename Sum, typename T>
void add_parts(const T* parts, int64_t n_parts, int64_t size, T* out) {
  for (int64_t begin = 0; begin < size; begin += AT_ONCE)
    add_parts<Sum>(parts, n_parts, size, begin, out);
}

}  // namespace tsgen::cpu
