#include "text/jinja_format_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja_builtins.h"

namespace fastgen::jinja {

namespace {

Text padded(const Text& body, const FormatSpec& spec, char otherwise) {
  std::int64_t missing = spec.width - static_cast<std::int64_t>(code_points(body.bytes));
  if (missing <= 0) return body;
  char align = spec.align ? spec.align : otherwise;
  std::int64_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  bool after_sign = align == '=' && !body.bytes.empty() && (body.bytes[0] == '-' || body.bytes[0] == '+');
  Text out = body.slice(0, after_sign);
  out.append(repeated(spec.fill, left));
  out.append(body, after_sign, body.size());
  out.append(repeated(spec.fill, missing - left));
  return out;
}

std::string grouped(const std::string& digits, char separator) {
  std::size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  std::string out;
  for (std::size_t i = 0; i < whole; ++i) {
    if (i && (whole - i) % 3 == 0) out += separator;
    out += digits[i];
  }
  return out + digits.substr(whole);
}

std::string integer_digits(std::int64_t value, const FormatSpec& spec) {
  std::uint64_t magnitude =
      value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
  switch (spec.type) {
    case 'x':
      return (spec.alternate ? "0x" : "") + fmt::format("{:x}", magnitude);
    case 'X':
      return (spec.alternate ? "0X" : "") + fmt::format("{:X}", magnitude);
    case 'o':
      return (spec.alternate ? "0o" : "") + fmt::format("{:o}", magnitude);
    case 'b':
      return (spec.alternate ? "0b" : "") + fmt::format("{:b}", magnitude);
    default:
      return fmt::format("{}", magnitude);
  }
}

std::string float_digits(double magnitude, const FormatSpec& spec) {
  std::int64_t precision = spec.precision < 0 ? 6 : spec.precision;
  if (precision > 1000) fail("ValueError", "precision too big");
  int digits = static_cast<int>(precision);
  switch (spec.type) {
    case 'e':
      return fmt::format("{:.{}e}", magnitude, digits);
    case 'E':
      return fmt::format("{:.{}E}", magnitude, digits);
    case 'g':
      return fmt::format("{:.{}g}", magnitude, std::max(digits, 1));
    case 'G':
      return fmt::format("{:.{}G}", magnitude, std::max(digits, 1));
    case '%':
      return fmt::format("{:.{}f}%", magnitude * 100, digits);
    case '\0':
      return spec.precision < 0 ? float_repr(magnitude)
                                : fmt::format("{:.{}g}", magnitude, std::max(digits, 1));
    default:
      return fmt::format("{:.{}f}", magnitude, digits);
  }
}

}  // namespace

Text format_number(const Value& value, FormatSpec spec) {
  bool as_float =
      value.is(Type::kFloat) || std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  if (spec.type == '\0' && !value.is(Type::kFloat)) as_float = false;
  bool negative = as_float ? std::signbit(value.as_double()) : value.as_int() < 0;
  std::string digits =
      as_float ? float_digits(std::abs(value.as_double()), spec) : integer_digits(value.as_int(), spec);
  if (spec.group) digits = grouped(digits, spec.group);
  std::string sign = negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  if (spec.zero && !spec.align) {
    spec.fill = Text("0");
    spec.align = '=';
  }
  Text body;
  body.append(sign + digits, value.is_trusted_number() && !as_float);
  return padded(body, spec, '>');
}

Text format_string(const Text& text, const FormatSpec& spec) {
  if (spec.precision < 0) return padded(text, spec, '<');
  return padded(text.slice(0, byte_offset(text.bytes, static_cast<std::size_t>(spec.precision))), spec, '<');
}

}  // namespace fastgen::jinja
