#include "bench/load_target.h"

#include "fastgen/error.h"
#include "support/support.h"

namespace fastgen::bench {

TEST_CASE("load target: a URL's host and port, or a Unix socket's path") {
  CHECK(parse_url("http://localhost:80/v1/").port == "80");
  CHECK(parse_url("http://example.org").port == "80");
  CHECK(parse_url("http://[::1]:5678").host == "::1");
  CHECK(parse_url("unix:/run/fastgen").unix_path == "/run/fastgen");
  const std::string too_long = "unix:/" + std::string(200, 'x');
  for (const char* bad : {"", "https://x:1", "localhost:1", "http://", "http://x:y", "http://x:1/path", "unix:", too_long.c_str()})
    CHECK_THROWS_AS(parse_url(bad), Error);
}

TEST_CASE("load target: the head of a request says where it goes, who asks and how long its body is") {
  LoadTarget target = parse_url("http://localhost:8000");
  CHECK(request_head(target, "GET", "/health", 0) ==
        "GET /health HTTP/1.1\r\nHost: localhost:8000\r\nAccept: text/event-stream, application/json\r\n\r\n");
  target.api_key = "sesame";
  CHECK(request_head(target, "POST", "/v1/completions", 12) ==
        "POST /v1/completions HTTP/1.1\r\nHost: localhost:8000\r\nAccept: text/event-stream, application/json\r\n"
        "Authorization: Bearer sesame\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n");
  CHECK(request_head(parse_url("unix:/run/fastgen"), "GET", "/", 0).find("Host: localhost\r\n") != std::string::npos);
}

}  // namespace fastgen::bench
