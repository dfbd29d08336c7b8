#include "server/http_reader.h"

#include "support/support.h"

namespace fastgen::server {

namespace {

constexpr HttpReader::Limits kLimits{1000, 2000};

// The status of the refusal, 0: the request was taken.
int status_of(const std::string& bytes) {
  try {
    HttpReader reader(kLimits);
    reader.put(bytes);
    return reader.done() ? 0 : -1;
  } catch (const ApiError& error) {
    return error.status;
  }
}

// Puts `bytes` as they would come in pieces of `piece` bytes, as far as the request needs them; returns what is left.
std::string put_in_pieces(HttpReader& reader, std::string_view bytes, std::size_t piece) {
  std::string in;
  while (!reader.done() && !bytes.empty()) {
    in += bytes.substr(0, piece);
    bytes.remove_prefix(std::min(piece, bytes.size()));
    in.erase(0, reader.put(in));
  }
  return in + std::string(bytes);
}

std::string post(const std::string& headers, const std::string& body = "") {
  return "POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n" + body;
}

}  // namespace

TEST_CASE("a request comes whole however its bytes are cut") {
  const std::string bytes = post("Content-Length: 5\r\nX-Request-Id: abc\r\n", "hello") + "GET /next";
  for (std::size_t piece = 1; piece < bytes.size(); ++piece) {
    HttpReader reader(kLimits);
    CHECK(put_in_pieces(reader, bytes, piece) == "GET /next");
    REQUIRE(reader.done());
    const HttpRequest request = reader.take();
    CHECK(request.method == "POST");
    CHECK(request.target == "/v1/completions");
    CHECK(request.body == "hello");
    CHECK(request.header("x-request-id") == "abc");
  }
}

TEST_CASE("chunked bodies are joined however their bytes are cut") {
  const std::string header = "Transfer-Encoding: chunked\r\n";
  for (std::string_view end : {"0\r\n\r\n", "0\r\nTrailer: t\r\n\r\n", "000;x=y\r\n\r\n"}) {
    const std::string bytes = post(header, "3\r\nabc\r\n2;x=y\r\nde\r\n" + std::string(end)) + "GET /next";
    for (std::size_t piece = 1; piece < bytes.size(); ++piece) {
      HttpReader reader(kLimits);
      CHECK(put_in_pieces(reader, bytes, piece) == "GET /next");
      REQUIRE(reader.done());
      CHECK(reader.take().body == "abcde");
    }
  }
}

TEST_CASE("a last chunk that goes on wrongly is refused") {
  const std::string bytes = post("Transfer-Encoding: chunked\r\n", "0\r\nt\r\n\r\n");
  for (std::size_t piece = 1; piece < 8; ++piece) {
    HttpReader reader(kLimits);
    CHECK_THROWS_AS(put_in_pieces(reader, bytes, piece), ApiError);
  }
}

// What can be sent after a header and is no body must not pile up here.
TEST_CASE("the lines between chunks have an end") {
  const std::string header = "Transfer-Encoding: chunked\r\n", much(3000, 'b'), fields = "A: " + std::string(500, 'b') + "\r\n";
  for (const std::string& lines : {"1;a=" + much, "1;a=\"\r\n" + much, "0" + std::string(3000, '0'), "0\r\nA: " + much, "0\r\n" + fields + fields + fields,
                                   "3\r\nabc\r\n1;" + much, "3\r\nabc\r\n0\r\nA: " + much}) {
    CAPTURE(lines.substr(0, 20));
    const std::string bytes = post(header, lines);
    for (std::size_t piece : {1, 7, 700, 10000}) {
      HttpReader reader(kLimits);
      std::string in;
      int status = 0;
      for (std::string_view rest = bytes; !rest.empty() && status == 0; rest.remove_prefix(std::min(piece, rest.size()))) {
        in += rest.substr(0, piece);
        try {
          in.erase(0, reader.put(in));
        } catch (const ApiError& error) {
          status = error.status;
        }
        CHECK(in.size() <= kLimits.header_bytes + piece);
      }
      CHECK(status == 431);
    }
  }
  CHECK(status_of(post(header, "1;a=" + std::string(900, 'b') + "\r\nx\r\n0\r\nA: " + std::string(900, 'b') + "\r\n\r\n")) == 0);
}

TEST_CASE("a field that the parser cannot keep is too large") {
  HttpReader reader({1 << 20, 2000});
  CHECK_THROWS_AS(reader.put(post("X: " + std::string(70000, 'y') + "\r\n")), ApiError);
}

TEST_CASE("what two parties could read differently is refused") {
  CHECK(status_of(post("Content-Length: 0\r\n")) == 0);
  CHECK(status_of(post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")) == 400);
  CHECK(status_of(post("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", "0\r\n\r\n")) == 400);
  CHECK(status_of(post("Content-Length: 1\r\nContent-Length: 2\r\n", "ab")) == 400);
  CHECK(status_of(post("Content-Length: 1\r\nContent-Length: 1\r\n", "a")) == 400);
  CHECK(status_of(post("Content-Length: +1\r\n", "a")) == 400);
  CHECK(status_of(post("Content-Length: 1, 1\r\n", "a")) == 400);
  CHECK(status_of(post("Content-Length: 0x1\r\n", "a")) == 400);
  CHECK(status_of(post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")) >= 400);
  CHECK(status_of(post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")) >= 400);
  CHECK(status_of(post("Transfer-Encoding: identity\r\n")) >= 400);
  CHECK(status_of(post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n")) == 400);
  CHECK(status_of(post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")) >= 400);
  CHECK(status_of("GET / HTTP/1.1\r\n\r\n") == 400);
  CHECK(status_of("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n") == 400);
  CHECK(status_of("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n") == 400);
  CHECK(status_of("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n") == 400);
  CHECK(status_of("GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n") == 400);
  CHECK(status_of(post("Content-Encoding: gzip\r\nContent-Length: 0\r\n")) == 415);
  CHECK(status_of(post("Content-Length: 3000\r\n")) == 413);
  CHECK(status_of(post("X: " + std::string(1000, 'y') + "\r\n")) == 431);
}

TEST_CASE("an absolute target is cut to its path") {
  HttpReader reader(kLimits);
  reader.put("GET http://host:1/health?x=1 HTTP/1.1\r\nHost: host:1\r\n\r\n");
  CHECK(reader.request().path() == "/health");
  CHECK(reader.request().query("x") == "1");
  CHECK(reader.request().query("y") == "");
}

TEST_CASE("header values never begin a line of their own, ids are plain") {
  std::string lines;
  append_header(lines, "a", "x\r\nSet-Cookie: y\x7F");
  CHECK(lines == "a: x  Set-Cookie: y \r\n");
  CHECK(is_request_id("req-1.2:3_x"));
  CHECK_FALSE(is_request_id(""));
  CHECK_FALSE(is_request_id("a b"));
  CHECK_FALSE(is_request_id("a\r\nb"));
  CHECK_FALSE(is_request_id(std::string(129, 'a')));
}

}  // namespace fastgen::server
