#include "server/sse.h"

#include "support/support.h"

namespace fastgen::server {

TEST_CASE("frames and chunks have the standard's bytes") {
  std::string out;
  append_frame(out, R"({"a":1})");
  append_frame(out, "{}");
  CHECK(out == "data: {\"a\":1}\n\ndata: {}\n\n");
  CHECK(make_chunk(std::string(26, 'x')) == "1a\r\n" + std::string(26, 'x') + "\r\n");
}

}  // namespace fastgen::server
