// Bytes to one HTTP/1.x request (RFC 9112), by Beast's parser, with what Beast lets pass refused here: a request whose end two
// parties could see at different places must not go on.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "server/api_error.h"
#include "server/http_message.h"

namespace fastgen::server {

class HttpReader {
 public:
  struct Limits {
    std::size_t header_bytes = 16 << 10;  // 431 above
    std::size_t body_bytes = 32 << 20;    // 413 above
  };
  explicit HttpReader(const Limits& limits);
  ~HttpReader();

  // Takes from the front of `bytes`, which must hold everything not taken before; returns how many are done with. Throws
  // ApiError for what is no request; the connection is then of no further use.
  std::size_t put(std::string_view bytes);
  bool header_done() const;
  bool done() const;
  // The peer waits for "100 Continue" before it sends its body.
  bool wants_continue() const;
  // From header_done on: all but the body.
  const HttpRequest& request() const { return request_; }
  // When done; once.
  HttpRequest take();

 private:
  void read_header();

  struct Parser;
  const Limits limits_;
  std::unique_ptr<Parser> parser_;
  HttpRequest request_;
};

}  // namespace fastgen::server
