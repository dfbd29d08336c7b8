#include "server/routes.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>

#include "base/json_writer.h"

namespace fastgen::server {

namespace {

const char* reason(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 503: return "Service Unavailable";
    default: return "Internal Server Error";
  }
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const int lower = std::tolower(static_cast<unsigned char>(c));
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// %2F and the like (RFC 3986, 2.1); what is no escape stays.
std::string percent_decode(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const int high = text[i] == '%' && i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
    out += low >= 0 ? static_cast<char>(high * 16 + low) : text[i];
    if (low >= 0) i += 2;
  }
  return out;
}

void require_method(const HttpRequest& request, std::string_view method) {
  if (request.method == method || (method == "GET" && request.method == "HEAD")) return;
  ApiError error(405, fmt::format("method {} is not allowed here, only {}", request.method, method), "", "method_not_allowed");
  error.allow = method == "GET" ? "GET, HEAD" : method;
  throw error;
}

// Browsers send JSON to other origins only after asking (CORS) when it is declared as such, so a page on the
// web cannot drive a server on localhost by a form.
void require_json(const HttpRequest& request) {
  std::string type = request.content_type.substr(0, request.content_type.find(';'));
  std::transform(type.begin(), type.end(), type.begin(), [](unsigned char c) { return std::tolower(c); });
  while (!type.empty() && std::isspace(static_cast<unsigned char>(type.back()))) type.pop_back();
  if (type.empty() || type == "application/json" || type.ends_with("+json")) return;
  throw ApiError(415, fmt::format("Content-Type: expected application/json, got {}", type.substr(0, 100)), "",
                 "unsupported_media_type");
}

// ---- answers that are ready

void write_model(JsonWriter& json, const ServerState& state, const std::string& name) {
  json.begin_object().field("id", name).field("object", "model").field("created", state.start_time);
  json.field("owned_by", "fastgen").field("max_model_len", state.engine.info().max_model_len).end_object();
}

HttpAnswer list_models(const ServerState& state) {
  HttpAnswer answer;
  JsonWriter json(answer.body);
  json.begin_object().field("object", "list").key("data").begin_array();
  for (const std::string& name : state.config.model_names) write_model(json, state, name);
  json.end_array().end_object();
  return answer;
}

HttpAnswer show_model(const ServerState& state, const std::string& name) {
  if (!state.knows_model(name))
    throw ApiError(404, fmt::format("model: \"{}\" is not served here", name), "model", "model_not_found");
  HttpAnswer answer;
  JsonWriter json(answer.body);
  write_model(json, state, name);
  return answer;
}

HttpAnswer show_health(const ServerState& state) {
  const EngineStats stats = state.engine.stats();
  const char* status = stats.failed ? "failed" : state.draining ? "draining" : "ok";
  HttpAnswer answer;
  answer.status = stats.failed || state.draining ? 503 : 200;
  JsonWriter json(answer.body);
  json.begin_object().field("status", status);
  json.field("connections", state.num_connections.load()).field("answers", state.num_answers.load());
  json.field("tickets_in_use", stats.tickets_in_use).field("waiting", stats.num_waiting).field("running", stats.num_running);
  json.field("blocks", stats.num_blocks).field("free_blocks", stats.num_free_blocks).field("steps", stats.num_steps);
  json.field("finished", stats.num_finished).field("preemptions", stats.num_preemptions).field("ring_waits", stats.num_ring_waits);
  json.end_object();
  return answer;
}

HttpAnswer show_version() {
  HttpAnswer answer;
  JsonWriter(answer.body).begin_object().field("version", FG_VERSION).end_object();
  return answer;
}

}  // namespace

std::variant<HttpAnswer, Endpoint> route(const ServerState& state, const HttpRequest& request) {
  std::string_view path = std::string_view(request.target).substr(0, request.target.find('?'));
  if (path.starts_with("/v1/")) path.remove_prefix(3);
  if (path == "/chat/completions" || path == "/completions") {
    require_method(request, "POST");
    require_json(request);
    return path == "/completions" ? Endpoint::kCompletions : Endpoint::kChat;
  }
  const bool one_model = path.starts_with("/models/");
  if (path == "/health" || path == "/version" || path == "/models" || one_model) require_method(request, "GET");
  if (path == "/health") return show_health(state);
  if (path == "/version") return show_version();
  if (path == "/models") return list_models(state);
  if (one_model) return show_model(state, percent_decode(path.substr(8)));
  throw ApiError(404,
                 fmt::format("no such path: {}; there are POST /v1/chat/completions and /v1/completions, GET /v1/models, "
                             "/v1/models/ID, /health and /version",
                             request.target.substr(0, 200)),
                 "", "path_not_found");
}

HttpAnswer answer_of(const ApiError& error) { return {error.status, error.body(), error.allow, error.retry_after_s}; }

std::string format_answer(const HttpAnswer& answer, bool keep_alive, bool head_only) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\nServer: fastgen\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
                                answer.status, reason(answer.status), answer.body.size());
  if (!answer.allow.empty()) out += fmt::format("Allow: {}\r\n", answer.allow);
  if (answer.retry_after_s > 0) out += fmt::format("Retry-After: {}\r\n", answer.retry_after_s);
  out += keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  if (!head_only) out += answer.body;
  return out;
}

std::string format_stream_header(bool http11, bool keep_alive) {
  return fmt::format(
      "HTTP/1.1 200 OK\r\nServer: fastgen\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
      "X-Accel-Buffering: no\r\n{}Connection: {}\r\n\r\n",
      http11 ? "Transfer-Encoding: chunked\r\n" : "", keep_alive ? "keep-alive" : "close");
}

}  // namespace fastgen::server
