// How addresses come from Python: as integers.
#pragma once

#include <cstdint>
#include <type_traits>

template <typename T>
using FromPython = std::conditional_t<std::is_pointer_v<T>, uintptr_t, T>;
