#include "model/json_fields.h"

#include <utility>

#include <fmt/format.h>

namespace fastgen {

namespace dom = simdjson::dom;

JsonFields::JsonFields(dom::object object, std::string where, std::string prefix)
    : object_(object), where_(std::move(where)), prefix_(std::move(prefix)) {}

bool JsonFields::has(std::string_view key) const {
  dom::element element;
  return object_.at_key(key).get(element) == simdjson::SUCCESS && !element.is_null();
}

bool JsonFields::is_null(std::string_view key) const {
  dom::element element;
  return object_.at_key(key).get(element) == simdjson::SUCCESS && element.is_null();
}

dom::element JsonFields::at(std::string_view key) const {
  dom::element element;
  if (object_.at_key(key).get(element) != simdjson::SUCCESS || element.is_null()) fail(key, "is missing");
  return element;
}

std::int64_t JsonFields::integer(std::string_view key, std::int64_t min, std::int64_t max) const {
  std::int64_t value = 0;
  if (at(key).get(value) != simdjson::SUCCESS) fail(key, "is not an integer");
  if (value < min || value > max) fail(key, fmt::format("is {}, outside {} to {}", value, min, max));
  return value;
}

std::int64_t JsonFields::integer_or(std::string_view key, std::int64_t fallback, std::int64_t min,
                                    std::int64_t max) const {
  return has(key) ? integer(key, min, max) : fallback;
}

double JsonFields::number(std::string_view key, double min, double max) const {
  double value = 0;
  if (at(key).get(value) != simdjson::SUCCESS) fail(key, "is not a number");
  if (!(value >= min && value <= max)) fail(key, fmt::format("is {}, outside {} to {}", value, min, max));
  return value;
}

double JsonFields::number_or(std::string_view key, double fallback, double min, double max) const {
  return has(key) ? number(key, min, max) : fallback;
}

bool JsonFields::boolean_or(std::string_view key, bool fallback) const {
  bool value = fallback;
  if (has(key) && at(key).get(value) != simdjson::SUCCESS) fail(key, "is not true or false");
  return value;
}

std::string JsonFields::text(std::string_view key) const {
  std::string_view value;
  if (at(key).get(value) != simdjson::SUCCESS) fail(key, "is not a string");
  return std::string(value);
}

std::string JsonFields::text_or(std::string_view key, std::string_view fallback) const {
  return has(key) ? text(key) : std::string(fallback);
}

JsonFields JsonFields::object(std::string_view key) const {
  dom::object value;
  if (at(key).get(value) != simdjson::SUCCESS) fail(key, "is not an object");
  return {value, where_, fmt::format("{}{}.", prefix_, key)};
}

std::string JsonFields::full_name(std::string_view key) const { return fmt::format("{}{}", prefix_, key); }

void JsonFields::fail(std::string_view key, std::string_view problem) const {
  throw Error(fmt::format("{}: {} {}", where_, full_name(key), problem));
}

dom::object parse_json_object(dom::parser& parser, std::string_view text, const std::string& where) {
  dom::element root;
  if (const auto error = parser.parse(text.data(), text.size()).get(root); error != simdjson::SUCCESS) {
    throw Error(fmt::format("{}: not valid JSON: {}", where, simdjson::error_message(error)));
  }
  dom::object object;
  if (root.get(object) != simdjson::SUCCESS) throw Error(fmt::format("{}: not a JSON object", where));
  return object;
}

}  // namespace fastgen
