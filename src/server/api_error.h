// A request that cannot be served: HTTP status and OpenAI's error object. Thrown anywhere between the
// request's bytes and its submission, caught in one place (session.cpp). Plain value otherwise.
#pragma once

#include <string>
#include <string_view>

#include "fastgen/error.h"

namespace fastgen::server {

struct ApiError : Error {
  ApiError(int status_in, const std::string& message, std::string param_in = "", std::string code_in = "");

  int status;         // 400..599
  std::string param;  // the field; empty: none in particular (null in the answer)
  std::string code;   // empty: null
  double retry_after_s = 0;  // > 0: Retry-After, retry-after-ms and x-should-retry, which the official clients obey
  bool must_not_retry = false;  // x-should-retry: false
  std::string headers;  // further header lines

  // "invalid_request_error", "authentication_error", "not_found_error", "rate_limit_error", "server_error".
  std::string_view type() const;
  // {"error":{"message":...,"type":...,"param":...,"code":...}}
  std::string body() const;
};

// 400 with the field's name first: "temperature: expected a number, got a string".
ApiError bad_field(const std::string& field, const std::string& what, std::string code = "");
ApiError loading();
ApiError shutting_down();
ApiError engine_failed();
// The request's own time (timeout_ms, ttft_timeout_ms) was over before its first token.
ApiError deadline_exceeded(const char* field);

}  // namespace fastgen::server
