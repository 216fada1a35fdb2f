// The border with C: nothing thrown crosses it, every argument is looked at before it is used.
#pragma once

#include <cstdint>
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

void check_range(const char* name, int64_t value, int64_t least, int64_t most);

// n, 0 or more, such that arrays of n times `each` numbers have a size.
void check_count(const char* name, int64_t n, int64_t each);

int64_t threads(int32_t n_threads);  // as many as the machine has for 0

}  // namespace tsgen::c_api
