// Reading a configuration from JSON: every missing or wrong field becomes an Error that names file and place.
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fastgen {

// One value in a document and where it stands ("tokenizer.json: model.vocab"). A view: the parser must
// outlive it.
class JsonPart {
 public:
  JsonPart(simdjson::dom::element value, std::string where) : value_(value), where_(std::move(where)) {}

  [[noreturn]] void fail(std::string_view what) const;  // throws Error "<where>: <what>"

  // A field of this object; absent and null are the same, unless it is required.
  std::optional<JsonPart> find(std::string_view key) const;
  JsonPart at(std::string_view key) const;
  std::vector<JsonPart> items() const;  // of this array

  std::string_view string() const;
  bool boolean() const;
  std::int64_t integer() const;
  bool is_string() const { return value_.is_string(); }
  bool is_array() const { return value_.is_array(); }
  bool is_object() const { return value_.is_object(); }

  std::string_view string_or(std::string_view key, std::string_view otherwise) const;
  bool boolean_or(std::string_view key, bool otherwise) const;
  std::int64_t integer_or(std::string_view key, std::int64_t otherwise) const;

  // The fields of this object, for large ones: callback(key, element).
  template <typename Callback>
  void for_each_field(Callback callback) const {
    simdjson::dom::object object;
    if (value_.get(object)) fail("must be an object");
    for (auto field : object) callback(field.key, field.value);
  }
  // The same for large arrays: callback(element).
  template <typename Callback>
  void for_each_item(Callback callback) const {
    simdjson::dom::array array;
    if (value_.get(array)) fail("must be an array");
    for (auto item : array) callback(item);
  }

 private:
  simdjson::dom::element value_;
  std::string where_;
};

// Owns the parsed text. Throws Error naming `name` where the text is not JSON.
class JsonDocument {
 public:
  JsonDocument(std::string_view text, std::string_view name);
  JsonPart root() const { return JsonPart(root_, name_ + ":"); }

 private:
  std::string name_;
  simdjson::dom::parser parser_;
  simdjson::dom::element root_;
};

}  // namespace fastgen
