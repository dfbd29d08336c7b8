// Which answer a method and path get (row 3); HTTP here is plain values, the wire is session.cpp's.
#pragma once

#include <optional>
#include <string>
#include <variant>

#include "server/api_error.h"
#include "server/api_request.h"
#include "server/server_state.h"

namespace fastgen::server {

struct HttpRequest {
  std::string method;        // "GET"
  std::string target;        // "/v1/models?x=y"
  std::string content_type;  // empty: none given
  std::string body;
  bool http11 = true;        // else 1.0
  bool keep_alive = true;
};

struct HttpAnswer {
  int status = 200;
  std::string body;  // JSON
  std::string allow;
  int retry_after_s = 0;
};

// An answer that is ready, or the endpoint that generates one. Throws ApiError (404, 405, 415).
std::variant<HttpAnswer, Endpoint> route(const ServerState& state, const HttpRequest& request);

HttpAnswer answer_of(const ApiError& error);
// "HTTP/1.1 200 OK", headers, blank line, body. `head_only`: no body, for HEAD.
std::string format_answer(const HttpAnswer& answer, bool keep_alive, bool head_only = false);
// The header of an SSE answer.
std::string format_stream_header(bool http11, bool keep_alive);

}  // namespace fastgen::server
