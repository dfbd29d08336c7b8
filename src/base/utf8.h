// What valid UTF-8 is (Unicode 15, table 3-7): no surrogates, no overlong forms, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <string_view>

namespace fastgen {

// Number of bytes of the valid sequence at `pos`; 0 where there is none. pos < text.size().
std::size_t utf8_sequence_bytes(std::string_view text, std::size_t pos);
bool is_utf8(std::string_view text);

}  // namespace fastgen
