// The border with C: nothing thrown crosses it, every argument is looked at before it is used.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "model/error.h"
#include "tsgen.h"

namespace tsgen::c_api {

// Keeps the text of the exception that is being handled; its status.
tsgen_status caught() noexcept;

// Runs what a function of the ABI does.
template <typename Work>
tsgen_status call(const Work& work) noexcept {
  try {
    work();
    return TSGEN_OK;
  } catch (...) {
    return caught();
  }
}

template <typename T>
void check_given(const char* name, const T* pointer) {
  if (!pointer) throw bad_value(name, "an address", "null");
}

// An array of n numbers, which has no address if n is 0.
template <typename T>
void check_array(const char* name, const T* array, int64_t n) {
  if (n > 0) check_given(name, array);
}

// Arrays of which all are given, or none.
void check_together(const char* names, std::initializer_list<const void*> arrays);

struct Size {
  const char* name;
  int64_t value, least;
};

// Sizes whose product counts bytes of memory without an overflow.
void check_sizes(std::initializer_list<Size> sizes);

// Ids (n) from 0 to `last`.
void check_ids(const char* name, const int64_t* ids, int64_t n, int64_t last);

void check_range(const char* name, int64_t value, int64_t least, int64_t most);

// n, 0 or more, such that arrays of n times `each` numbers have a size.
void check_count(const char* name, int64_t n, int64_t each);

int64_t threads(int32_t n_threads);  // as many as the machine has, for 0

}  // namespace tsgen::c_api
