// Typed reading of a JSON request. Each function returns the value or throws ApiError 400, which names
// the field by its path ("messages[0].role"), what was expected and what came instead.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <simdjson.h>

#include "fastgen/types.h"
#include "server/api_error.h"

namespace fastgen::server {

// A value and where it stood. The view dies with its document.
struct JsonField {
  std::string path;
  simdjson::dom::element value;

  bool is_null() const { return value.is_null(); }
  bool is_string() const { return value.is_string(); }
  bool is_array() const { return value.is_array(); }
  bool is_object() const { return value.is_object(); }

  bool boolean() const;
  std::string_view string() const;
  std::int64_t integer(std::int64_t low, std::int64_t high) const;  // 3.0 counts as 3
  double number(double low, double high) const;
  std::vector<JsonField> items() const;                        // of an array: path[0], path[1], ...
  std::vector<std::pair<std::string_view, JsonField>> members() const;  // of an object: path.key
  std::vector<TokenId> token_ids() const;
  std::string raw() const;  // as JSON text

  [[noreturn]] void refuse(const std::string& what) const;
  // "expected WHAT, got a string"
  [[noreturn]] void expected(const std::string& what) const;
};

inline constexpr std::size_t kMaxJsonDepth = 64;

// The members of a body that must be one JSON object; they live as long as `parser`. Throws ApiError 400.
std::vector<std::pair<std::string_view, JsonField>> parse_object(simdjson::dom::parser& parser, std::string_view body);

}  // namespace fastgen::server
