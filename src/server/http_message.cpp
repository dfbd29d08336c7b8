#include "server/http_message.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>

namespace fastgen::server {

namespace {

const char* reason(int status) {
  switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return "Internal Server Error";
  }
}

}  // namespace

void HttpRequest::add_header(std::string_view name, std::string_view value) {
  std::string lower(name);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  headers_.emplace_back(std::move(lower), value);
}

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers_)
    if (key == name) return value;
  return {};
}

std::size_t HttpRequest::num_headers(std::string_view name) const {
  return static_cast<std::size_t>(std::count_if(headers_.begin(), headers_.end(), [&](const auto& h) { return h.first == name; }));
}

std::string_view HttpRequest::query(std::string_view name) const {
  const std::size_t mark = target.find('?');
  std::string_view rest = mark == std::string::npos ? std::string_view() : std::string_view(target).substr(mark + 1);
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
    if (pair.starts_with(name) && pair.size() > name.size() && pair[name.size()] == '=') return pair.substr(name.size() + 1);
  }
  return {};
}

void append_header(std::string& lines, std::string_view name, std::string_view value) {
  lines.append(name).append(": ");
  for (char c : value) lines += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? ' ' : c;
  lines += "\r\n";
}

std::string format_answer(const HttpAnswer& answer, bool keep_alive, bool head_only) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\nServer: fastgen\r\n", answer.status, reason(answer.status));
  if (answer.status != 204)
    out += fmt::format("Content-Type: {}\r\nContent-Length: {}\r\n", answer.content_type, answer.body.size());
  out += answer.headers;
  out += keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  if (!head_only && answer.status != 204) out += answer.body;
  return out;
}

std::string format_stream_header(bool http11, bool keep_alive, std::string_view headers) {
  return fmt::format(
      "HTTP/1.1 200 OK\r\nServer: fastgen\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
      "X-Accel-Buffering: no\r\n{}{}Connection: {}\r\n\r\n",
      headers, http11 ? "Transfer-Encoding: chunked\r\n" : "", keep_alive ? "keep-alive" : "close");
}

bool is_request_id(std::string_view text) {
  return !text.empty() && text.size() <= 128 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '.' || c == '_' || c == ':' || c == '-';
  });
}

}  // namespace fastgen::server
