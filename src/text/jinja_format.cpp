// Python's two ways of formatting: "%s" % values and "{}".format(values).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja_builtins.h"
#include "text/jinja_format_spec.h"

namespace fastgen::jinja {

namespace {

// Reads characters of one format string.
class Reader {
 public:
  explicit Reader(std::string_view s) : s_(s) {}
  bool done() const { return pos_ >= s_.size(); }
  char peek() const { return done() ? '\0' : s_[pos_]; }
  char take() { return s_[pos_++]; }
  std::size_t pos() const { return pos_; }
  void skip_to(std::size_t pos) { pos_ = pos; }
  bool skip(char c) { return peek() == c && !done() && (++pos_, true); }

  std::optional<std::int64_t> number() {
    if (peek() < '0' || peek() > '9') return std::nullopt;
    std::int64_t value = 0;
    while (peek() >= '0' && peek() <= '9') {
      value = value * 10 + (take() - '0');
      if (value > static_cast<std::int64_t>(kMaxText)) fail("ValueError", "width too big");
    }
    return value;
  }

 private:
  std::string_view s_;
  std::size_t pos_ = 0;
};

class PercentFormatter {
 public:
  PercentFormatter(const Text& format, const Value& values)
      : format_(format), reader_(format.bytes), values_(values) {
    is_tuple_ = values.is_list() && values.list_data().kind == ListKind::kTuple;
  }

  Text run() {
    std::size_t plain = 0;
    while (!reader_.done()) {
      std::size_t at = reader_.pos();
      if (reader_.take() != '%') continue;
      out_.append(format_, plain, at);
      if (reader_.skip('%'))
        out_.append(format_, at, at + 1);
      else
        conversion();
      plain = reader_.pos();
    }
    out_.append(format_, plain, format_.size());
    bool left_over =
        is_tuple_ ? used_ < values_.items().size() : used_ == 0 && !values_.is_dict() && !values_.is_list();
    if (left_over) fail("TypeError", "not all arguments converted during string formatting");
    return std::move(out_);
  }

 private:
  const Value& next_value() {
    std::size_t available = is_tuple_ ? values_.items().size() : 1;
    if (used_ >= available) fail("TypeError", "not enough arguments for format string");
    return is_tuple_ ? values_.items()[used_++] : (++used_, values_);
  }

  const Value& keyed_value() {
    std::size_t end = format_.bytes.find(')', reader_.pos());
    if (end == std::string::npos) fail("ValueError", "incomplete format key");
    std::string key = format_.bytes.substr(reader_.pos(), end - reader_.pos());
    reader_.skip_to(end + 1);
    if (!values_.is_dict()) fail("TypeError", "format requires a mapping");
    const Value* found = values_.dict().find(std::string_view(key));
    if (!found) fail("KeyError", fmt::format("'{}'", key));
    return *found;
  }

  std::int64_t width_or(std::int64_t otherwise) {
    if (!reader_.skip('*')) return reader_.number().value_or(otherwise);
    return std::clamp<std::int64_t>(int_argument(&next_value(), 0), 0, kMaxText);
  }

  void conversion() {
    const Value* value = reader_.skip('(') ? &keyed_value() : nullptr;
    FormatSpec spec;
    for (bool more = true; more;) {
      if (reader_.skip('-'))
        spec.align = '<';
      else if (reader_.skip('+'))
        spec.sign = '+';
      else if (reader_.skip(' '))
        spec.sign = spec.sign == '+' ? '+' : ' ';
      else if (reader_.skip('#'))
        spec.alternate = true;
      else if (reader_.skip('0'))
        spec.zero = true;
      else
        more = false;
    }
    spec.width = width_or(0);
    if (reader_.skip('.')) spec.precision = width_or(0);
    if (reader_.done()) fail("ValueError", "incomplete format");
    spec.type = reader_.take();
    out_.append(converted(value ? *value : next_value(), spec));
  }

  Text converted(const Value& value, FormatSpec spec) {
    char type = spec.type;
    if (type == 's' || type == 'r' || type == 'a' || type == 'c') {
      Text text;
      if (type == 'c')
        text = one_character(value);
      else if (type == 's')
        append_text(text, value);
      else
        append_repr(text, value);
      if (!spec.align) spec.align = '>';
      return format_string(text, spec);
    }
    if (std::string_view("diuxXoeEfFgG").find(type) == std::string_view::npos)
      fail("ValueError",
           fmt::format("unsupported format character '{}' (0x{:x}) at index {}", type,
                       static_cast<unsigned>(static_cast<unsigned char>(type)), reader_.pos() - 1));
    bool as_float = std::string_view("eEfFgG").find(type) != std::string_view::npos;
    value.require_defined();
    if (!value.is_number())
      fail("TypeError",
           as_float ? fmt::format("must be real number, not {}", type_name(value))
                    : fmt::format("%{} format: a real number is required, not {}", type, type_name(value)));
    if (as_float) return format_number(value, spec);
    if (!value.is(Type::kFloat)) return format_number(value, spec);
    if (!(std::abs(value.as_double()) < 9e18)) fail("OverflowError", "an integer grows beyond 64 bits");
    return format_number(Value::integer(static_cast<std::int64_t>(value.as_double())), spec);
  }

  static Text one_character(const Value& value) {
    value.require_defined();
    if (value.is_string() && code_points(value.str()) == 1) return value.text();
    if (!value.is_integral()) fail("TypeError", "%c requires int or char");
    const std::int64_t code = value.as_int();
    if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      fail("OverflowError", "%c arg not in range(0x110000)");
    std::string bytes;
    append_utf8(bytes, static_cast<char32_t>(code));
    return Text(std::move(bytes));
  }

  const Text& format_;
  Reader reader_;
  const Value& values_;
  bool is_tuple_ = false;
  std::size_t used_ = 0;
  Text out_;
};

class BraceFormatter {
 public:
  BraceFormatter(const Text& format, const Args& args)
      : format_(format), reader_(format.bytes), args_(args) {}

  Text run() {
    std::size_t plain = 0;
    while (!reader_.done()) {
      std::size_t at = reader_.pos();
      char c = reader_.take();
      if (c != '{' && c != '}') continue;
      out_.append(format_, plain, at);
      if (reader_.skip(c)) {
        out_.append(format_, at, at + 1);
      } else if (c == '}') {
        fail("ValueError", "Single '}' encountered in format string");
      } else if (reader_.done()) {
        fail("ValueError", "Single '{' encountered in format string");
      } else {
        field();
      }
      plain = reader_.pos();
    }
    out_.append(format_, plain, format_.size());
    return std::move(out_);
  }

 private:
  std::string take_until(std::string_view stops) {
    std::string out;
    while (!reader_.done() && stops.find(reader_.peek()) == stops.npos) out += reader_.take();
    return out;
  }

  void field() {
    Value value = field_value(take_until(".[!:}"));
    for (;;) {
      if (reader_.skip('.')) {
        value = get_attribute(value, Value::string(take_until(".[!:}")));
      } else if (reader_.skip('[')) {
        std::string key = take_until("]");
        reader_.skip(']');
        bool is_index = !key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == key.npos;
        value = get_item(value, is_index ? Value::integer(std::stoll(key)) : Value::string(key));
      } else {
        break;
      }
    }
    if (reader_.skip('!')) {
      bool as_repr = reader_.peek() == 'r' || reader_.peek() == 'a';
      if (!reader_.done()) reader_.take();
      Text text;
      if (as_repr)
        append_repr(text, value);
      else
        append_text(text, value);
      value = Value::string(std::move(text));
    }
    FormatSpec spec;
    if (reader_.skip(':')) spec = take_spec();
    if (!reader_.skip('}')) fail("ValueError", "expected '}' before end of string");
    out_.append(formatted(value, spec));
  }

  Value field_value(const std::string& name) {
    bool is_index = name.size() < 10 && name.find_first_not_of("0123456789") == name.npos;
    if (is_index) {
      std::size_t idx = name.empty() ? next_++ : static_cast<std::size_t>(std::stoul(name));
      if (idx >= args_.positional.size()) fail("IndexError", "tuple index out of range");
      return args_.positional[idx];
    }
    for (const auto& [key, value] : args_.named)
      if (key == name) return value;
    fail("KeyError", fmt::format("'{}'", name));
  }

  // [[fill]align][sign][#][0][width][,][.precision][type]
  FormatSpec take_spec() {
    static constexpr std::string_view kAligns = "<>^=";
    FormatSpec spec;
    std::string_view s = format_.bytes;
    std::size_t after = reader_.pos();
    if (after < s.size()) next_code_point(s, after);
    if (after < s.size() && kAligns.find(s[after]) != kAligns.npos && s[reader_.pos()] != '}') {
      spec.fill = format_.slice(reader_.pos(), after);
      reader_.skip_to(after);
    }
    if (!reader_.done() && kAligns.find(reader_.peek()) != kAligns.npos) spec.align = reader_.take();
    if (!reader_.done() && std::string_view("+- ").find(reader_.peek()) != std::string_view::npos)
      spec.sign = reader_.take();
    spec.alternate = reader_.skip('#');
    spec.zero = reader_.skip('0');
    spec.width = reader_.number().value_or(0);
    if (reader_.peek() == ',' || reader_.peek() == '_') spec.group = reader_.take();
    if (reader_.skip('.')) spec.precision = reader_.number().value_or(0);
    if (reader_.peek() != '}' && !reader_.done()) spec.type = reader_.take();
    return spec;
  }

  static Text formatted(const Value& value, const FormatSpec& spec) {
    bool plain = value.is(Type::kBool) && spec.type == '\0';
    if (!value.is_number() || plain) {
      if (spec.type != '\0' && spec.type != 's')
        fail("ValueError",
             fmt::format("Unknown format code '{}' for object of type '{}'", spec.type, type_name(value)));
      return format_string(to_text(value), spec);
    }
    static constexpr std::string_view kIntTypes = "bdoxXeEfFgG%n";
    bool known =
        spec.type == '\0' || kIntTypes.find(spec.type, value.is(Type::kFloat) ? 5 : 0) != kIntTypes.npos;
    if (!known)
      fail("ValueError",
           fmt::format("Unknown format code '{}' for object of type '{}'", spec.type, type_name(value)));
    return format_number(value, spec);
  }

  const Text& format_;
  Reader reader_;
  const Args& args_;
  std::size_t next_ = 0;
  Text out_;
};

}  // namespace

Text format_percent(const Text& format, const Value& values) {
  charge_steps(format.size() / 64);
  return PercentFormatter(format, values).run();
}

Text format_braces(const Text& format, const Args& args) {
  charge_steps(format.size() / 64);
  return BraceFormatter(format, args).run();
}

}  // namespace fastgen::jinja
