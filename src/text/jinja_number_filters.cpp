// Filters on numbers, and those that make numbers.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "text/jinja_builtins.h"

namespace fastgen::jinja {

namespace {

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
  // Python's are ints, so there is no -0.0.
  if (method == "ceil") return Value::real((std::ceil(input.as_double() * scale) + 0.0) / scale);
  if (method == "floor") return Value::real((std::floor(input.as_double() * scale) + 0.0) / scale);
  fail("FilterArgumentError", "method must be common, ceil or floor");
}

}  // namespace

Filter find_number_filter(std::string_view name) {
  static const std::map<std::string_view, Filter> kFilters = {
      {"abs", abs}, {"float", to_float}, {"int", to_int}, {"round", round}};
  auto it = kFilters.find(name);
  return it == kFilters.end() ? nullptr : it->second;
}

}  // namespace fastgen::jinja
