#include "bench/sse_reader.h"

#include <random>
#include <vector>

#include "support/support.h"

namespace fastgen::bench {
namespace {

struct Read {
  SseReader reader;
  std::vector<std::string> events;
  bool fine = true;
};

// Fed in pieces of the given sizes, again and again.
Read read_in_pieces(const std::string& bytes, const std::vector<std::size_t>& sizes) {
  Read read;
  std::size_t at = 0, next = 0;
  while (at < bytes.size() && read.fine) {
    const std::size_t size = std::min(sizes[next++ % sizes.size()], bytes.size() - at);
    read.fine = read.reader.feed(std::string_view(bytes).substr(at, size), [&](std::string_view data) { read.events.emplace_back(data); });
    at += size;
  }
  return read;
}

const std::string kHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
const std::string kChunked = kHead + "f\r\ndata: {\"a\":1}\n\n\r\n1B;x=y\r\n: ping\n\ndata:two\r\n\r\ndata: t\r\n8\r\nhree\n\nda\r\n"
                                     "d\r\nta: [DONE]\n\n\n\r\n0\r\nX-Trailer: 1\r\n\r\n";
const std::vector<std::string> kEvents = {"{\"a\":1}", "two", "three", "[DONE]"};

TEST_CASE("a chunked event stream comes out whole however it is cut") {
  for (std::size_t size = 1; size <= kChunked.size(); ++size) {
    const Read read = read_in_pieces(kChunked, {size});
    CAPTURE(size);
    CHECK(read.fine);
    CHECK(read.events == kEvents);
    CHECK(read.reader.is_done());
    CHECK(read.reader.status() == 200);
    CHECK(read.reader.keeps_alive());
  }
  std::mt19937_64 random(test::seed());
  for (int i = 0; i < 500; ++i) {
    std::vector<std::size_t> sizes;
    for (int k = 0; k < 20; ++k) sizes.push_back(1 + random() % 30);
    CHECK(read_in_pieces(kChunked, sizes).events == kEvents);
  }
}

TEST_CASE("a stream without a length ends with the connection") {
  Read read = read_in_pieces("HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: a\n\ndata: b\n\n", {7});
  CHECK(read.events == std::vector<std::string>{"a", "b"});
  CHECK_FALSE(read.reader.is_done());
  CHECK_FALSE(read.reader.keeps_alive());
  CHECK(read.reader.finish());
  Read cut = read_in_pieces(kChunked.substr(0, kChunked.size() - 3), {7});
  CHECK_FALSE(cut.reader.finish());
}

TEST_CASE("an answer that is no stream keeps its body") {
  const Read read = read_in_pieces("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Too Many Requests\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlater", {3});
  CHECK(read.reader.is_done());
  CHECK(read.reader.status() == 429);
  CHECK(read.reader.body() == "later");
  CHECK_FALSE(read.reader.keeps_alive());
  CHECK(read.events.empty());
  CHECK(read_in_pieces("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", {100}).reader.is_done());
}

TEST_CASE("what is not HTTP is refused") {
  for (const std::string bad : {"SSH-2.0-x\r\n", "HTTP/1.1 abc\r\n", "HTTP/1.1 200 OK\r\nno colon here\r\n", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n"}) {
    const Read read = read_in_pieces(bad, {4});
    CHECK_FALSE(read.fine);
    CHECK_FALSE(read.reader.error().empty());
  }
  CHECK_FALSE(read_in_pieces(kHead + "zz\r\n", {9}).fine);
  CHECK_FALSE(read_in_pieces(kHead + "2\r\nabcd\r\n", {9}).fine);  // longer than it said
  CHECK_FALSE(read_in_pieces("HTTP/1.1 200 OK\r\nx: " + std::string(20'000, 'x'), {1000}).fine);
}

}  // namespace
}  // namespace fastgen::bench
