#include "server/http_reader.h"

#include <algorithm>
#include <cctype>
#include <stdexcept>

#include <boost/beast/core/error.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <fmt/format.h>

namespace fastgen::server {

namespace http = boost::beast::http;

namespace {

std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

ApiError bad_http(const std::string& what) { return ApiError(400, "not HTTP/1.1: " + what, "", "invalid_http"); }

ApiError refusal_of(const HttpReader::Limits& limits, const boost::system::error_code& error) {
  if (error == http::error::header_limit)
    return ApiError(431, fmt::format("the request's header is over {} bytes (--max-header-bytes)", limits.header_bytes), "", "header_too_large");
  if (error == http::error::body_limit)
    return ApiError(413, fmt::format("the request's body is over {} bytes (--max-body-bytes)", limits.body_bytes), "", "body_too_large");
  return bad_http(error.message());
}

bool same_word(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

// What any chunked body still has to come while it is not whole: "0", CRLF, CRLF. Beast 1.81 asserts that it gets so much at once
// when it comes back to a last chunk, so a body in small pieces would end the process.
constexpr std::size_t kLastChunkBytes = 5;

// Of what follows a header, Beast bounds only the bodies of chunks.
ApiError chunk_lines_too_long(const HttpReader::Limits& limits) {
  return ApiError(431, fmt::format("a chunk's first line or the trailer is over {} bytes (--max-header-bytes)", limits.header_bytes), "",
                  "header_too_large");
}

// "http://host/path" (RFC 9112, 3.2.2) to "/path".
std::string origin_form(std::string_view target) {
  for (std::string_view scheme : {"http://", "https://"}) {
    if (target.size() < scheme.size() || !same_word(target.substr(0, scheme.size()), scheme)) continue;
    const std::size_t slash = target.find('/', scheme.size());
    return slash == std::string_view::npos ? "/" : std::string(target.substr(slash));
  }
  return std::string(target);
}

// Where a request ends must be beyond doubt (RFC 9112, 6.3 and 11.2), and so must whom it is for (3.2).
void check_header(const HttpRequest& request) {
  const std::string_view encoding = request.header("transfer-encoding");
  const std::size_t num_lengths = request.num_headers("content-length");
  if (request.num_headers("transfer-encoding") > 0) {
    if (num_lengths > 0) throw bad_http("both Content-Length and Transfer-Encoding");
    if (!request.http11) throw bad_http("Transfer-Encoding in HTTP/1.0");
    if (request.num_headers("transfer-encoding") > 1 || !same_word(encoding, "chunked"))
      throw ApiError(501, "Transfer-Encoding: only \"chunked\" is understood", "", "transfer_encoding_unsupported");
  }
  if (num_lengths > 1) throw bad_http("more than one Content-Length");
  const std::string_view length = request.header("content-length");
  if (num_lengths == 1 && (length.empty() || length.find_first_not_of("0123456789") != std::string_view::npos))
    throw bad_http("bad Content-Length");
  const std::size_t num_hosts = request.num_headers("host");
  if (num_hosts > 1 || (request.http11 && num_hosts == 0)) throw bad_http("exactly one Host is needed");
  if (request.header("host").find_first_of(" \t,@/\\") != std::string_view::npos) throw bad_http("bad Host");
  if (request.header("content-encoding") != "" && !same_word(request.header("content-encoding"), "identity"))
    throw ApiError(415, "Content-Encoding: compressed bodies are not understood", "", "unsupported_media_type");
  for (unsigned char c : request.target)
    if (c <= 0x20 || c >= 0x7F) throw bad_http("bad request target");
}

}  // namespace

struct HttpReader::Parser {
  std::size_t put(std::string_view bytes, boost::system::error_code& error);
  http::request_parser<http::string_body> beast;
};

std::size_t HttpReader::Parser::put(std::string_view bytes, boost::system::error_code& error) {
  try {
    return beast.put(boost::asio::const_buffer(bytes.data(), bytes.size()), error);
  } catch (const std::length_error&) {  // Beast keeps no name or value of over 64 KB
    error = http::error::header_limit;
    return 0;
  }
}

HttpReader::HttpReader(const Limits& limits) : limits_(limits), parser_(std::make_unique<Parser>()) {
  parser_->beast.header_limit(static_cast<std::uint32_t>(limits.header_bytes));
  parser_->beast.body_limit(limits.body_bytes);
}

HttpReader::~HttpReader() = default;

std::size_t HttpReader::put(std::string_view bytes) {
  std::size_t taken = 0;
  while (taken < bytes.size() && !done()) {
    const bool had_header = header_done();
    const std::size_t before = taken;
    if (had_header && parser_->beast.chunked() && bytes.size() - taken < kLastChunkBytes) break;
    boost::system::error_code error;
    taken += parser_->put(bytes.substr(taken), error);
    if (error == http::error::need_more && had_header && bytes.size() - taken > limits_.header_bytes) throw chunk_lines_too_long(limits_);
    if (error == http::error::need_more) break;
    if (error) throw refusal_of(limits_, error);
    if (!had_header && header_done()) {
      read_header();
      parser_->beast.eager(true);
    } else if (taken == before) {
      break;
    }
  }
  return taken;
}

void HttpReader::read_header() {
  const auto& message = parser_->beast.get();
  request_.method = std::string(view(message.method_string()));
  request_.target = origin_form(view(message.target()));
  request_.http11 = message.version() >= 11;
  request_.keep_alive = message.keep_alive();
  for (const auto& field : message) request_.add_header(view(field.name_string()), view(field.value()));
  check_header(request_);
}

bool HttpReader::header_done() const { return parser_->beast.is_header_done(); }

bool HttpReader::done() const { return parser_->beast.is_done(); }

bool HttpReader::wants_continue() const {
  return header_done() && !done() && request_.http11 && same_word(request_.header("expect"), "100-continue");
}

HttpRequest HttpReader::take() {
  request_.body = std::move(parser_->beast.get().body());
  return std::move(request_);
}

}  // namespace fastgen::server
