#include "text/json_part.h"

#include <fmt/format.h>

#include "fastgen/error.h"

namespace fastgen {

void JsonPart::fail(std::string_view what) const { throw Error(fmt::format("{} {}", where_, what)); }

std::optional<JsonPart> JsonPart::find(std::string_view key) const {
  simdjson::dom::object object;
  if (value_.get(object)) fail("must be an object");
  simdjson::dom::element field;
  if (object.at_key(key).get(field) || field.is_null()) return std::nullopt;
  return JsonPart(field, fmt::format("{}{}{}", where_, where_.ends_with(':') ? " " : ".", key));
}

JsonPart JsonPart::at(std::string_view key) const {
  auto part = find(key);
  if (!part) fail(fmt::format("lacks {}", key));
  return *part;
}

std::vector<JsonPart> JsonPart::items() const {
  std::vector<JsonPart> parts;
  for_each_item([&](simdjson::dom::element item) {
    parts.emplace_back(item, fmt::format("{}[{}]", where_, parts.size()));
  });
  return parts;
}

std::string_view JsonPart::string() const {
  std::string_view text;
  if (value_.get(text)) fail("must be a string");
  return text;
}

bool JsonPart::boolean() const {
  bool flag = false;
  if (value_.get(flag)) fail("must be true or false");
  return flag;
}

std::int64_t JsonPart::integer() const {
  std::int64_t number = 0;
  if (value_.get(number)) fail("must be an integer");
  return number;
}

std::string_view JsonPart::string_or(std::string_view key, std::string_view otherwise) const {
  auto part = find(key);
  return part ? part->string() : otherwise;
}

bool JsonPart::boolean_or(std::string_view key, bool otherwise) const {
  auto part = find(key);
  return part ? part->boolean() : otherwise;
}

std::int64_t JsonPart::integer_or(std::string_view key, std::int64_t otherwise) const {
  auto part = find(key);
  return part ? part->integer() : otherwise;
}

JsonDocument::JsonDocument(std::string_view text, std::string_view name) : name_(name) {
  auto error = parser_.parse(text.data(), text.size()).get(root_);
  if (error) throw Error(fmt::format("{}: is not valid JSON: {}", name_, simdjson::error_message(error)));
}

}  // namespace fastgen
