// FG_CHECK: our own bugs abort with the values, in release builds too. Never for what a user or file can cause.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include <fmt/format.h>

namespace fastgen {

[[noreturn]] inline void check_failed(const char* file, int line, const char* condition, const std::string& values) {
  std::fprintf(stderr, "%s:%d: check failed: %s %s\n", file, line, condition, values.c_str());
  std::abort();
}

template <typename... Values>
std::string check_values(const Values&... values) {
  std::string out;
  ((out += fmt::format("[{}]", values)), ...);
  return out;
}

}  // namespace fastgen

// FG_CHECK(idx < size, idx, size): the values are printed in brackets.
#define FG_CHECK(condition, ...)                                                                     \
  do {                                                                                               \
    if (!(condition)) [[unlikely]]                                                                   \
      ::fastgen::check_failed(__FILE__, __LINE__, #condition, ::fastgen::check_values(__VA_ARGS__)); \
  } while (false)
