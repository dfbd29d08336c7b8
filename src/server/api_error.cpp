#include "server/api_error.h"

#include <utility>

#include "base/json_writer.h"

namespace fastgen::server {

ApiError::ApiError(int status_in, const std::string& message, std::string param_in, std::string code_in)
    : Error(message), status(status_in), param(std::move(param_in)), code(std::move(code_in)) {}

std::string_view ApiError::type() const {
  if (status == 401) return "authentication_error";
  if (status == 404) return "not_found_error";
  if (status == 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

std::string ApiError::body() const {
  std::string out;
  JsonWriter json(out);
  json.begin_object().key("error").begin_object().field("message", std::string_view(what())).field("type", type());
  json.key("param");
  param.empty() ? json.null() : json.value(param);
  json.key("code");
  code.empty() ? json.null() : json.value(code);
  json.end_object().end_object();
  return out;
}

ApiError bad_field(const std::string& field, const std::string& what, std::string code) {
  return ApiError(400, field + ": " + what, field, std::move(code));
}

ApiError loading() {
  ApiError error(503, "the model is still loading", "", "loading");
  error.retry_after_s = 2;
  return error;
}

ApiError shutting_down() {
  ApiError error(503, "the server is shutting down", "", "shutting_down");
  error.retry_after_s = 5;
  return error;
}

ApiError engine_failed() { return ApiError(500, "the engine failed; no token can be generated", "", "engine_failed"); }

ApiError deadline_exceeded(const char* field) {
  ApiError error(504, std::string(field) + ": the time was over before the first token", field, "deadline_exceeded");
  error.must_not_retry = true;
  return error;
}

}  // namespace fastgen::server
