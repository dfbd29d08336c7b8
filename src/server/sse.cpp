#include "server/sse.h"

#include <fmt/format.h>

#include "base/check.h"

namespace fastgen::server {

void append_frame(std::string& out, std::string_view json) {
  out += "data: ";
  out += json;
  out += "\n\n";
}

std::string make_chunk(std::string_view bytes) {
  FG_CHECK(!bytes.empty());
  return fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes);
}

}  // namespace fastgen::server
