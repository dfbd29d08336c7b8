// Which answer a method and path get (row 3); HTTP here is plain values, the wire is session.cpp's.
#pragma once

#include <cstdint>
#include <string_view>
#include <variant>

#include "server/api_error.h"
#include "server/http_message.h"
#include "server/server_state.h"

namespace fastgen::server {

// What takes more than a look at the state.
enum class Work : std::uint8_t { kChat, kCompletions, kTokenize, kDetokenize };

// For counting: every path belongs to one.
Route route_of(std::string_view path);

// An answer that is ready, or the work that makes one. Throws ApiError (404, 405, 415, 503 while the model loads).
std::variant<HttpAnswer, Work> route(const ServerState& state, const HttpRequest& request);

HttpAnswer answer_of(const ApiError& error);

}  // namespace fastgen::server
