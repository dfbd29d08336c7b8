// A request and an answer as plain values; the wire is http_reader's and session's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fastgen::server {

struct HttpRequest {
  std::string method;  // "GET"
  std::string target;  // "/v1/models?x=y"; an absolute URL is cut to this
  std::string body;
  bool http11 = true;  // else 1.0
  bool keep_alive = true;
  std::uint64_t start_us = 0;  // when its first byte was read, steady clock
  std::string id;              // x-request-id: the client's, else one of ours

  void add_header(std::string_view name, std::string_view value);
  // Of that name in small letters; empty: none. The first one where there are several.
  std::string_view header(std::string_view name) const;
  std::size_t num_headers(std::string_view name) const;
  std::string_view path() const { return std::string_view(target).substr(0, target.find('?')); }
  // Of "?name=value&..."; empty: none. Not percent-decoded.
  std::string_view query(std::string_view name) const;

 private:
  std::vector<std::pair<std::string, std::string>> headers_;  // names in small letters
};

struct HttpAnswer {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::string headers;  // further header lines, each with its CRLF
};

// Adds "NAME: VALUE" to header lines. Control characters in the value become spaces, so that no value begins a line of its own.
void append_header(std::string& lines, std::string_view name, std::string_view value);

// To a request that expects it, and to see whether a silent peer is still there: any HTTP/1.1 client passes over it.
inline constexpr std::string_view kContinueAnswer = "HTTP/1.1 100 Continue\r\n\r\n";

// "HTTP/1.1 200 OK", headers, blank line, body. `head_only`: no body, for HEAD.
std::string format_answer(const HttpAnswer& answer, bool keep_alive, bool head_only = false);
// The header of an SSE answer; `headers` as in HttpAnswer.
std::string format_stream_header(bool http11, bool keep_alive, std::string_view headers = {});

// A client's x-request-id is taken over only in this form: 1..128 of A-Z a-z 0-9 . _ : -
bool is_request_id(std::string_view text);

}  // namespace fastgen::server
