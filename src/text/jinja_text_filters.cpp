// Filters on one string, number or value.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "text/jinja_builtins.h"
#include "text/jinja_json.h"

namespace fastgen::jinja {

namespace {

// Filters turn what they get into a string, as Jinja2's soft_str.
Value as_string(const Value& value) { return value.is_string() ? value : Value::string(to_text(value)); }

Value call_method(const Value& self, std::string_view name, Args& args) {
  return find_string_method(name)(self, args);
}

template <const char* const& name>
Value by_method(const Value& input, Args& args) {
  return call_method(as_string(input), name, args);
}
constexpr const char* kUpper = "upper";
constexpr const char* kLower = "lower";
constexpr const char* kCapitalize = "capitalize";

Value string(const Value& input, Args& args) {
  bind(args, "string", {});
  return as_string(input);
}

Value trim(const Value& input, Args& args) {
  auto bound = bind(args, "trim", {"chars"});
  Args strip;
  if (bound[0]) strip.positional.push_back(*bound[0]);
  return call_method(as_string(input), "strip", strip);
}

// Jinja2's own title(): words begin after white space and brackets, the rest is lower case.
Value title(const Value& input, Args& args) {
  bind(args, "title", {});
  Value value = as_string(input);
  const Text& text = value.text();
  charge_steps(text.size() / 8);
  Text out;
  bool begins = true;
  for (std::size_t pos = 0; pos < text.size();) {
    std::size_t begin = pos;
    char32_t c = next_code_point(text.bytes, pos);
    append_mapped(out, text, begin, pos, begins ? Case::kUpper : Case::kLower);
    bool is_break =
        c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) != std::string_view::npos;
    begins = is_space(c) || is_break;
  }
  return Value::string(std::move(out));
}

Value replace(const Value& input, Args& args) {
  auto bound = bind(args, "do_replace", {"old", "new", "count"});
  if (!bound[0] || !bound[1]) fail("TypeError", "do_replace() missing required positional arguments");
  Args call;
  call.positional = {as_string(*bound[0]), as_string(*bound[1])};
  if (bound[2] && !bound[2]->is_none()) call.positional.push_back(*bound[2]);
  return call_method(as_string(input), "replace", call);
}

Value format(const Value& input, Args& args) {
  if (!args.positional.empty() && !args.named.empty())
    fail("FilterArgumentError", "can't handle positional and keyword arguments at the same time");
  Value format = as_string(input);
  if (args.named.empty())
    return Value::string(format_percent(format.text(), Value::list(args.positional, ListKind::kTuple)));
  auto dict = std::make_shared<Dict>();
  for (const auto& [name, value] : args.named) dict->set(Value::string(name), value);
  return Value::string(format_percent(format.text(), Value::dict(std::move(dict))));
}

Value indent(const Value& input, Args& args) {
  auto bound = bind(args, "do_indent", {"width", "first", "blank"});
  bool first = bool_argument(bound[1], false);
  bool blank = bool_argument(bound[2], false);
  Text prefix;
  if (bound[0] && bound[0]->is_string())
    prefix = bound[0]->text();
  else
    prefix = repeated(Text(" "), int_argument(bound[0], 4));
  Value value = as_string(input);
  Args none;
  std::vector<Value> lines = call_method(value, "splitlines", none).items();
  // Jinja2 adds a newline before it splits, so that a last empty line counts.
  bool ends_line = value.str().empty() || value.str().back() == '\n';
  if (ends_line) lines.push_back(Value::string(Text()));
  bool is_template = value.text().is_trusted(0, value.str().size());
  Text out;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i) out.append("\n", is_template);
    bool wants_prefix = i == 0 ? first : blank || !lines[i].str().empty();
    if (wants_prefix) out.append(prefix);
    out.append(lines[i].text());
  }
  return Value::string(std::move(out));
}

Value escape(const Value& input, Args& args) {
  bind(args, "escape", {});
  Value value = as_string(input);
  const Text& text = value.text();
  Text out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    switch (text.bytes[i]) {
      case '&':
        out.append("&amp;");
        break;
      case '<':
        out.append("&lt;");
        break;
      case '>':
        out.append("&gt;");
        break;
      case '\'':
        out.append("&#39;");
        break;
      case '"':
        out.append("&#34;");
        break;
      default:
        out.append(text, i, i + 1);
    }
  }
  return Value::string(std::move(out));
}

Value urlencode(const Value& input, Args& args) {
  bind(args, "urlencode", {});
  auto quoted = [](Text& out, const Text& text, std::string_view safe) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      char c = text.bytes[i];
      bool plain =
          (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || safe.find(c) != safe.npos;
      if (plain)
        out.append(text, i, i + 1);
      else if (c == ' ' && safe.find('/') == safe.npos)
        out.append("+");  // within a query
      else
        out.append(fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c))));
    }
  };
  Text out;
  if (!input.is_dict()) {
    quoted(out, to_text(input), "_.-~/");
    return Value::string(std::move(out));
  }
  for (const auto& [key, value] : input.dict().entries()) {
    if (out.size()) out.append("&");
    quoted(out, to_text(key), "_.-~");
    out.append("=");
    quoted(out, to_text(value), "_.-~");
  }
  return Value::string(std::move(out));
}

Value truncate(const Value& input, Args& args) {
  auto bound = bind(args, "do_truncate", {"length", "killwords", "end", "leeway"});
  std::int64_t limit = int_argument(bound[0], 255);
  Value end = bound[2] ? as_string(*bound[2]) : Value::string(Text::from_template("..."));
  std::int64_t leeway = int_argument(bound[3], 5);
  auto end_size = static_cast<std::int64_t>(length(end));
  if (limit < end_size) fail("AssertionError", fmt::format("expected length >= {}, got {}", end_size, limit));
  if (leeway < 0) fail("AssertionError", fmt::format("expected leeway >= 0, got {}", leeway));
  Value value = as_string(input);
  if (static_cast<std::int64_t>(length(value)) - leeway <= limit) return value;
  std::size_t cut = byte_offset(value.str(), static_cast<std::size_t>(limit - end_size));
  if (!bool_argument(bound[1], false)) {
    std::size_t space = value.str().substr(0, cut).rfind(' ');
    if (space != std::string::npos) cut = space;
  }
  Text out = value.text().slice(0, cut);
  out.append(end.text());
  return Value::string(std::move(out));
}

Value center(const Value& input, Args& args) {
  auto bound = bind(args, "do_center", {"width"});
  Args call;
  call.positional.push_back(Value::integer(int_argument(bound[0], 80)));
  return call_method(as_string(input), "center", call);
}

Value wordcount(const Value& input, Args& args) {
  bind(args, "do_wordcount", {});
  Value value = as_string(input);
  std::string_view s = value.str();
  charge_steps(s.size() / 16);
  std::int64_t count = 0;
  bool in_word = false;
  for (std::size_t pos = 0; pos < s.size();) {
    char32_t c = next_code_point(s, pos);
    Args none;
    std::string one;
    append_utf8(one, c);
    bool is_word = c == '_' || find_string_method("isalnum")(Value::string(one), none).as_bool();
    count += is_word && !in_word;
    in_word = is_word;
  }
  return Value::integer(count);
}

// ---- numbers

std::optional<double> parse_float(std::string_view s) {
  std::string digits(s.substr(stripped(s).begin, stripped(s).end - stripped(s).begin));
  std::erase(digits, '_');
  std::size_t at = digits.starts_with('+') ? 1 : 0;
  double value = 0;
  auto result = std::from_chars(digits.data() + at, digits.data() + digits.size(), value);
  bool all = result.ptr == digits.data() + digits.size() && at < digits.size();
  if (result.ec == std::errc::result_out_of_range && all)
    return digits.find("e-") != digits.npos ? 0.0 : HUGE_VAL;
  return result.ec == std::errc() && all ? std::optional(value) : std::nullopt;
}

std::optional<std::int64_t> parse_int(std::string_view s, int base) {
  std::string digits(s.substr(stripped(s).begin, stripped(s).end - stripped(s).begin));
  std::erase(digits, '_');
  std::size_t at = digits.starts_with('+') ? 1 : 0;
  bool minus = digits.starts_with('-');
  std::size_t head = at + minus;
  auto has_prefix = [&](char letter) {
    return head + 1 < digits.size() && digits[head] == '0' && (digits[head + 1] | 0x20) == letter;
  };
  if ((base == 16 && has_prefix('x')) || (base == 8 && has_prefix('o')) || (base == 2 && has_prefix('b')))
    digits.erase(head, 2);
  std::int64_t value = 0;
  auto result = std::from_chars(digits.data() + at, digits.data() + digits.size(), value, base);
  if (result.ec == std::errc::result_out_of_range) fail("OverflowError", "an integer has more than 64 bits");
  bool all = result.ptr == digits.data() + digits.size() && !digits.empty();
  return result.ec == std::errc() && all ? std::optional(value) : std::nullopt;
}

std::optional<std::int64_t> truncated(std::optional<double> d) {
  if (!d || std::isnan(*d) || std::isinf(*d)) return std::nullopt;
  if (std::abs(*d) >= 9.2e18) fail("OverflowError", "an integer has more than 64 bits");
  return static_cast<std::int64_t>(*d);
}

Value to_int(const Value& input, Args& args) {
  auto bound = bind(args, "do_int", {"default", "base"});
  Value otherwise = bound[0] ? *bound[0] : Value::integer(0);
  std::int64_t base = int_argument(bound[1], 10);
  if (base < 2 || base > 36) return otherwise;
  input.require_defined();
  std::optional<std::int64_t> value;
  if (input.is_integral()) return Value::integer(input.as_int(), input.is_trusted_number());
  if (input.is(Type::kFloat)) value = truncated(input.as_double());
  if (input.is_string()) {
    value = parse_int(input.str(), static_cast<int>(base));
    if (!value) value = truncated(parse_float(input.str()));
  }
  return value ? Value::integer(*value) : otherwise;
}

Value to_float(const Value& input, Args& args) {
  auto bound = bind(args, "do_float", {"default"});
  input.require_defined();
  if (input.is_number()) return Value::real(input.as_double());
  std::optional<double> value = input.is_string() ? parse_float(input.str()) : std::nullopt;
  return value ? Value::real(*value) : bound[0] ? *bound[0] : Value::real(0);
}

Value abs(const Value& input, Args& args) {
  bind(args, "abs", {});
  input.require_defined();
  if (!input.is_number())
    fail("TypeError", fmt::format("bad operand type for abs(): '{}'", type_name(input)));
  if (input.is(Type::kFloat)) return Value::real(std::abs(input.as_double()));
  return input.as_int() < 0 ? negate(input) : Value::integer(input.as_int(), input.is_trusted_number());
}

// Python's round(d, precision): to the nearest decimal, exact halves to even.
double rounded(double d, int precision) {
  if (!std::isfinite(d)) return d;
  if (precision <= 0) {
    double scale = std::pow(10.0, -precision);
    return std::nearbyint(d / scale) * scale;
  }
  return *parse_float(fmt::format("{:.{}f}", d, precision));
}

Value round(const Value& input, Args& args) {
  auto bound = bind(args, "do_round", {"precision", "method"});
  auto precision = static_cast<int>(std::clamp<std::int64_t>(int_argument(bound[0], 0), -400, 400));
  std::string method = bound[1] ? text_argument(*bound[1], "method").bytes : "common";
  input.require_defined();
  if (!input.is_number())
    fail("TypeError", fmt::format("type {} doesn't define __round__ method", type_name(input)));
  if (method == "common") {
    if (!input.is_integral()) return Value::real(rounded(input.as_double(), precision));
    if (precision >= 0) return Value::integer(input.as_int());
    return Value::integer(truncated(rounded(input.as_double(), precision)).value_or(0));
  }
  double scale = std::pow(10.0, precision);
  if (method == "ceil") return Value::real(std::ceil(input.as_double() * scale) / scale);
  if (method == "floor") return Value::real(std::floor(input.as_double() * scale) / scale);
  fail("FilterArgumentError", "method must be common, ceil or floor");
}

Value default_value(const Value& input, Args& args) {
  auto bound = bind(args, "do_default", {"default_value", "boolean"});
  bool missing = input.is_undefined() || (bool_argument(bound[1], false) && !truthy(input));
  if (!missing) return input;
  return bound[0] ? *bound[0] : Value::string(Text());
}

Value tojson(const Value& input, Args& args) {
  auto bound = bind(args, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bool_argument(bound[0], false);
  style.sort_keys = bool_argument(bound[3], false);
  if (bound[1] && bound[1]->is_string())
    style.indent = bound[1]->str();
  else if (bound[1] && !bound[1]->is_none())
    style.indent = repeated(Text(" "), int_argument(bound[1], 0)).bytes;
  if (style.indent) style.item_separator = ",";
  if (bound[2] && !bound[2]->is_none()) {
    std::vector<Value> separators = iterate(*bound[2]);
    if (separators.size() != 2) fail("ValueError", "separators must be two strings");
    style.item_separator = text_argument(separators[0], "a separator").bytes;
    style.key_separator = text_argument(separators[1], "a separator").bytes;
  }
  return Value::string(dump_json(input, style));
}

}  // namespace

Filter find_text_filter(std::string_view name) {
  static const std::map<std::string_view, Filter> kFilters = {{"abs", abs},
                                                              {"capitalize", by_method<kCapitalize>},
                                                              {"center", center},
                                                              {"d", default_value},
                                                              {"default", default_value},
                                                              {"e", escape},
                                                              {"escape", escape},
                                                              {"float", to_float},
                                                              {"forceescape", escape},
                                                              {"format", format},
                                                              {"indent", indent},
                                                              {"int", to_int},
                                                              {"lower", by_method<kLower>},
                                                              {"replace", replace},
                                                              {"round", round},
                                                              {"safe", string},
                                                              {"string", string},
                                                              {"title", title},
                                                              {"tojson", tojson},
                                                              {"trim", trim},
                                                              {"truncate", truncate},
                                                              {"upper", by_method<kUpper>},
                                                              {"urlencode", urlencode},
                                                              {"wordcount", wordcount}};
  auto it = kFilters.find(name);
  return it == kFilters.end() ? nullptr : it->second;
}

Filter find_filter(std::string_view name) {
  Filter filter = find_text_filter(name);
  return filter ? filter : find_list_filter(name);
}

}  // namespace fastgen::jinja
