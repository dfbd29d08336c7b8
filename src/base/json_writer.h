// JSON out: appends to a string, never holds a document. What comes out is always valid JSON in valid
// UTF-8: bad bytes become U+FFFD, numbers that JSON lacks become null. The caller keeps begin and end in
// balance and puts one key before each value of an object.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace fastgen {

// Appends `text` in quotes.
void append_json_string(std::string& out, std::string_view text);

class JsonWriter {
 public:
  explicit JsonWriter(std::string& out) : out_(out) {}

  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }
  JsonWriter& key(std::string_view name);

  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(const std::string& text) { return value(std::string_view(text)); }
  JsonWriter& value(bool flag) { return raw(flag ? "true" : "false"); }
  JsonWriter& value(float number);   // the shortest text that reads back as the same float
  JsonWriter& value(double number);  // the same for double
  template <typename Integer>
    requires std::is_integral_v<Integer>
  JsonWriter& value(Integer number) {
    if constexpr (std::is_signed_v<Integer>) return signed_value(number);
    return unsigned_value(number);
  }
  JsonWriter& null() { return raw("null"); }
  // A value that is JSON already.
  JsonWriter& raw(std::string_view json);

  template <typename Value>
  JsonWriter& field(std::string_view name, const Value& v) {
    key(name);
    return value(v);
  }

 private:
  void separate() {
    if (needs_comma_) out_ += ',';
    needs_comma_ = true;
  }
  JsonWriter& open(char bracket) {
    separate();
    out_ += bracket;
    needs_comma_ = false;
    return *this;
  }
  JsonWriter& close(char bracket) {
    out_ += bracket;
    needs_comma_ = true;
    return *this;
  }
  JsonWriter& signed_value(std::int64_t number);
  JsonWriter& unsigned_value(std::uint64_t number);

  std::string& out_;
  bool needs_comma_ = false;  // before the next key or value
};

}  // namespace fastgen
