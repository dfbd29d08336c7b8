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
  int retry_after_s = 0;
  std::string allow;  // 405: the Allow header

  // "invalid_request_error", "not_found_error", "rate_limit_error", "server_error".
  std::string_view type() const;
  // {"error":{"message":...,"type":...,"param":...,"code":...}}
  std::string body() const;
};

// 400 with the field's name first: "temperature: expected a number, got a string".
ApiError bad_field(const std::string& field, const std::string& what, std::string code = "");
ApiError overloaded();
ApiError shutting_down();
ApiError engine_failed();

}  // namespace fastgen::server
