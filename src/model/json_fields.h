// Reads one JSON object of a foreign file field by field; every error names the file and the key.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <simdjson.h>

#include "fastgen/error.h"

namespace fastgen {

// A key whose value is null counts as absent: configs write both. Views into the parser's document.
class JsonFields {
 public:
  // `where` begins each message ("model/config.json"), `prefix` each key ("rope_scaling.").
  JsonFields(simdjson::dom::object object, std::string where, std::string prefix = "");

  bool has(std::string_view key) const;
  bool is_null(std::string_view key) const;  // there, and null
  // The element; fails if absent.
  simdjson::dom::element at(std::string_view key) const;

  std::int64_t integer(std::string_view key, std::int64_t min, std::int64_t max) const;
  std::int64_t integer_or(std::string_view key, std::int64_t fallback, std::int64_t min, std::int64_t max) const;
  double number(std::string_view key, double min, double max) const;
  double number_or(std::string_view key, double fallback, double min, double max) const;
  bool boolean_or(std::string_view key, bool fallback) const;
  std::string text(std::string_view key) const;
  std::string text_or(std::string_view key, std::string_view fallback) const;
  JsonFields object(std::string_view key) const;

  std::string full_name(std::string_view key) const;  // with the objects that it stands in: "rope_scaling.factor"
  // Calls visit(key, element) for each key, in the file's order.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (auto [key, value] : object_) visit(key, value);
  }

  // Throws Error "<where>: <key> <problem>".
  [[noreturn]] void fail(std::string_view key, std::string_view problem) const;

 private:
  simdjson::dom::object object_;
  std::string where_;
  std::string prefix_;
};

// Parses text whose root must be an object. `parser` owns the document and must outlive the result.
simdjson::dom::object parse_json_object(simdjson::dom::parser& parser, std::string_view text, const std::string& where);

}  // namespace fastgen
