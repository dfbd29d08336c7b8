// JSON to values and back.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "text/jinja_value.h"

namespace fastgen::jinja {

// Keeps the order of keys; of a key that comes twice the last counts. Throws fastgen::Error that begins
// with `what` ("messages") on bad JSON, bad UTF-8, integers beyond 64 bits and nesting over kMaxNesting.
Value parse_json(std::string_view json, std::string_view what);
// The same for a text that a template holds: null where it is no JSON. Fails with RenderError on JSON that no Value can hold.
std::optional<Value> try_parse_json(std::string_view json);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // of one level; without it all is one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// As Python's json.dumps. Strings keep their marks.
Text dump_json(const Value& value, const JsonStyle& style);

}  // namespace fastgen::jinja
