// One value laid out by a format specification, as both of Python's ways of formatting have it.
#pragma once

#include <cstdint>

#include "text/jinja_value.h"

namespace fastgen::jinja {

// What stands between "%" or ":" and the type letter.
struct FormatSpec {
  Text fill{" "};
  char align = '\0';  // < > ^ =, or none given
  char sign = '-';    // '+' and ' ' show it for positive numbers
  bool alternate = false;
  bool zero = false;
  char group = '\0';  // ',' or '_'
  std::int64_t width = 0;
  std::int64_t precision = -1;
  char type = '\0';
};

// `value` is a number.
Text format_number(const Value& value, FormatSpec spec);
// The width pads, the precision cuts.
Text format_string(const Text& text, const FormatSpec& spec);

}  // namespace fastgen::jinja
