#include "server/json_fields.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

namespace fastgen::server {

namespace {

std::string describe(const simdjson::dom::element& value) {
  using Type = simdjson::dom::element_type;
  switch (value.type()) {
    case Type::ARRAY: return "an array";
    case Type::OBJECT: return "an object";
    case Type::STRING: return "a string";
    case Type::BOOL: return "a boolean";
    case Type::NULL_VALUE: return "null";
    default: return simdjson::to_string(value);
  }
}

std::string range_text(double low, double high) {
  if (high >= 9e18) return low > -9e18 ? fmt::format(" of at least {:g}", low) : "";
  return fmt::format(" between {:.10g} and {:.10g}", low, high);
}

// Python clients send 3.0 where an int was a float once.
bool integral(double number) { return std::floor(number) == number && std::abs(number) < 9e15; }

}  // namespace

void JsonField::refuse(const std::string& what) const { throw bad_field(path, what); }

void JsonField::expected(const std::string& what) const { refuse(fmt::format("expected {}, got {}", what, describe(value))); }

bool JsonField::boolean() const {
  bool flag = false;
  if (value.get(flag)) expected("a boolean");
  return flag;
}

std::string_view JsonField::string() const {
  std::string_view text;
  if (value.get(text)) expected("a string");
  return text;
}

std::int64_t JsonField::integer(std::int64_t low, std::int64_t high) const {
  const std::string what = "an integer" + range_text(static_cast<double>(low), static_cast<double>(high));
  std::int64_t number = 0;
  if (value.get(number)) {
    double real = 0;
    if (!value.is_double() || value.get(real) || !integral(real)) expected(what);
    number = static_cast<std::int64_t>(real);
  }
  if (number < low || number > high) expected(what);
  return number;
}

double JsonField::number(double low, double high) const {
  double number = 0;
  if (value.get(number) || !(number >= low && number <= high)) expected("a number" + range_text(low, high));
  return number;
}

std::vector<JsonField> JsonField::items() const {
  if (!is_array()) expected("an array");
  std::vector<JsonField> out;
  for (simdjson::dom::element item : value.get_array())
    out.push_back({fmt::format("{}[{}]", path, out.size()), item});
  return out;
}

std::vector<std::pair<std::string_view, JsonField>> JsonField::members() const {
  if (!is_object()) expected("an object");
  std::vector<std::pair<std::string_view, JsonField>> out;
  for (auto [key, member] : value.get_object())
    out.push_back({key, {path.empty() ? std::string(key) : fmt::format("{}.{}", path, key), member}});
  return out;
}

std::vector<TokenId> JsonField::token_ids() const {
  if (!is_array()) expected("an array of token ids");
  std::vector<TokenId> ids;
  ids.reserve(value.get_array().value().size());
  for (simdjson::dom::element item : value.get_array()) {
    std::int64_t id = 0;
    if (item.get(id) || id < 0 || id > std::numeric_limits<TokenId>::max())
      JsonField{fmt::format("{}[{}]", path, ids.size()), item}.expected("a token id");
    ids.push_back(static_cast<TokenId>(id));
  }
  return ids;
}

std::string JsonField::raw() const { return simdjson::to_string(value); }

std::vector<std::pair<std::string_view, JsonField>> parse_object(simdjson::dom::parser& parser, std::string_view body) {
  if (parser.allocate(std::max<std::size_t>(body.size(), 64), kMaxJsonDepth))
    throw ApiError(500, "out of memory while reading the request");
  simdjson::dom::element document;
  if (auto error = parser.parse(body.data(), body.size()).get(document))
    throw ApiError(400, fmt::format("the body is not valid JSON: {}", simdjson::error_message(error)), "", "invalid_json");
  if (!document.is_object()) throw ApiError(400, "the body must be a JSON object", "", "invalid_json");
  return JsonField{"", document}.members();
}

}  // namespace fastgen::server
