#include "c_api/call.h"

#include <algorithm>
#include <cstdio>
#include <new>
#include <thread>

#include "machine/isa.h"
#include "model/json.h"

namespace {

thread_local char last_error[1024] = "";  // not a string, which may find no memory

tsgen_status keep(tsgen_status status, const char* text) {
  std::snprintf(last_error, sizeof last_error, "%s", text);
  return status;
}

}  // namespace

namespace tsgen::c_api {

tsgen_status caught() noexcept {
  try {
    throw;
  } catch (const std::invalid_argument& error) {
    return keep(TSGEN_BAD_ARGUMENT, error.what());
  } catch (const FileError& error) {
    return keep(TSGEN_BAD_FILE, error.what());
  } catch (const NotFinite& error) {
    return keep(TSGEN_NOT_FINITE, error.what());
  } catch (const Unsupported& error) {
    return keep(TSGEN_UNSUPPORTED, error.what());
  } catch (const std::bad_alloc&) {
    return keep(TSGEN_NO_MEMORY, "memory: wanted more than there is");
  } catch (const std::length_error&) {
    return keep(TSGEN_NO_MEMORY, "memory: wanted more than an array can hold");
  } catch (const std::exception& error) {
    return keep(TSGEN_FAILED, error.what());
  } catch (...) {
    return keep(TSGEN_FAILED, "something unknown was thrown");
  }
}

void check_range(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  throw bad_value(name,
                  "a whole number from " + std::to_string(least) + " to " + std::to_string(most),
                  std::to_string(value));
}

void check_count(const char* name, int64_t n, int64_t each) {
  check_range(name, n, 0, (INT64_C(1) << 58) / (each > 0 ? each : 1));
}

void check_together(const char* names, std::initializer_list<const void*> arrays) {
  size_t given = 0;
  for (const void* const array : arrays) given += array != nullptr;
  if (given != 0 && given != arrays.size()) throw bad_value(names, "all or none", "some of them");
}

void check_sizes(std::initializer_list<Size> sizes) {
  int64_t product = 1;
  for (const Size& size : sizes) {
    check_range(size.name, size.value, size.least, (INT64_C(1) << 56) / product);
    product *= std::max<int64_t>(size.value, 1);
  }
}

void check_ids(const char* name, const int64_t* ids, int64_t n, int64_t last) {
  check_array(name, ids, n);
  for (int64_t i = 0; i < n; ++i) check_range(name, ids[i], 0, last);
}

int64_t threads(int32_t n_threads) {
  check_range("n_threads", n_threads, 0, 4096);
  const int64_t here = std::thread::hardware_concurrency();
  return n_threads ? n_threads : here ? here : 1;
}

}  // namespace tsgen::c_api

using namespace tsgen::c_api;

const char* tsgen_last_error(void) { return last_error; }

const char* tsgen_version(void) { return TSGEN_VERSION; }

int32_t tsgen_abi_version(void) { return TSGEN_ABI_VERSION; }

const char* tsgen_instruction_set(void) { return tsgen::cpu::name(tsgen::cpu::isa()); }

tsgen_status tsgen_limit_instruction_set(const char* most) {
  return call([&] {
    using tsgen::cpu::Isa;
    check_given("most", most);
    for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
      if (std::string(most) == tsgen::cpu::name(isa)) {
        tsgen::cpu::limit_isa(isa);
        return;
      }
    throw tsgen::bad_value("most", "portable, avx2 or avx512", tsgen::quoted(most));
  });
}
