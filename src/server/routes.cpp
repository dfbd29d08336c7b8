#include "server/routes.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "base/json_writer.h"
#include "base/trace.h"
#include "server/health.h"
#include "server/metrics_text.h"
#include "server/openapi.h"

namespace fastgen::server {

namespace {

constexpr std::uint64_t kTraceMs = 500, kMaxTraceMs = 600'000;

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
  ApiError error(405, fmt::format("method {} is not allowed here, only {}", request.method.substr(0, 32), method), "", "method_not_allowed");
  append_header(error.headers, "Allow", method == "GET" ? "GET, HEAD" : method);
  throw error;
}

// Browsers send JSON to other origins only after asking (CORS) when it is declared as such, so a page on the
// web cannot drive a server on localhost by a form. It can leave the type out, but not its own origin.
void require_json(const HttpRequest& request) {
  const std::string_view given = request.header("content-type");
  std::string type(given.substr(0, given.find(';')));
  std::transform(type.begin(), type.end(), type.begin(), [](unsigned char c) { return std::tolower(c); });
  while (!type.empty() && std::isspace(static_cast<unsigned char>(type.back()))) type.pop_back();
  const bool is_of_a_page = request.num_headers("origin") > 0;
  if ((type.empty() && !is_of_a_page) || type == "application/json" || type.ends_with("+json")) return;
  throw ApiError(415, fmt::format("Content-Type: expected application/json, got {}", type.empty() ? "none" : type.substr(0, 100)), "",
                 "unsupported_media_type");
}

// ---- answers that are ready

void write_model(JsonWriter& json, const ServerState& state, const std::string& name) {
  json.begin_object().field("id", name).field("object", "model").field("created", state.start_time);
  json.field("owned_by", "fastgen").field("max_model_len", state.engine().info().max_model_len).end_object();
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

HttpAnswer show_tokenizer(const ServerState& state) {
  const Tokenizer& tokenizer = *state.tools().tokenizer;
  HttpAnswer answer;
  JsonWriter json(answer.body);
  const auto token = [&](std::string_view name, const std::string& text) {
    json.key(name);
    text.empty() ? json.null() : json.value(text);
  };
  json.begin_object().field("tokenizer_class", "fastgen").field("vocab_size", tokenizer.vocab_size());
  json.field("model_max_length", state.engine().info().max_model_len);
  token("bos_token", tokenizer.bos_token());
  token("eos_token", tokenizer.eos_token());
  json.key("eos_token_ids").begin_array();
  for (TokenId id : state.engine().info().eos_ids) json.value(id);
  const auto& chat_template = state.tools().chat_template;
  json.end_array().field("has_chat_template", chat_template != nullptr).key("chat_template_names").begin_array();
  for (const std::string& name : chat_template ? chat_template->names() : std::vector<std::string>()) json.value(name);
  json.end_array().end_object();
  return answer;
}

HttpAnswer show_version() {
  HttpAnswer answer;
  JsonWriter(answer.body).begin_object().field("version", FG_VERSION).end_object();
  return answer;
}

// The flight recorder's last ?ms=500 milliseconds, as ui.perfetto.dev shows them.
HttpAnswer show_trace(const HttpRequest& request) {
  if constexpr (!kHasProfiler) throw ApiError(501, kNoProfiler);
  const std::string_view text = request.query("ms");
  std::uint64_t ms = kTraceMs;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ms);
  if (!text.empty() && (error != std::errc() || end != text.data() + text.size() || ms < 1 || ms > kMaxTraceMs))
    throw bad_field("ms", fmt::format("expected a number between 1 and {}", kMaxTraceMs));
  HttpAnswer answer;
  answer.body = recent_trace(ms);
  return answer;
}

HttpAnswer show_openapi() {
  HttpAnswer answer;
  answer.body = openapi_document();
  return answer;
}

// ---- the table

struct Entry {
  std::string_view path;
  Route route;
  std::string_view method;
  bool needs_model;
  Work work;                               // where `show` is null
  HttpAnswer (*show)(const ServerState&);
  HttpAnswer (*show_for)(const HttpRequest&) = nullptr;  // where the answer depends on the request
};

constexpr std::array kEntries = {
    Entry{"/v1/chat/completions", Route::kChat, "POST", true, Work::kChat, nullptr},
    Entry{"/v1/completions", Route::kCompletions, "POST", true, Work::kCompletions, nullptr},
    Entry{"/tokenize", Route::kTokenize, "POST", true, Work::kTokenize, nullptr},
    Entry{"/detokenize", Route::kDetokenize, "POST", true, Work::kDetokenize, nullptr},
    Entry{"/tokenizer_info", Route::kTokenizerInfo, "GET", true, {}, show_tokenizer},
    Entry{"/v1/models", Route::kModels, "GET", true, {}, list_models},
    Entry{"/health", Route::kHealth, "GET", false, {}, show_health},
    Entry{"/health/live", Route::kHealth, "GET", false, {}, show_live},
    Entry{"/health/ready", Route::kHealth, "GET", false, {}, show_ready},
    Entry{"/metrics", Route::kMetrics, "GET", false, {}, show_metrics},
    Entry{"/version", Route::kVersion, "GET", false, {}, [](const ServerState&) { return show_version(); }},
    Entry{"/debug/trace", Route::kDebug, "GET", false, {}, nullptr, show_trace},
    Entry{"/openapi.json", Route::kOpenApi, "GET", false, {}, [](const ServerState&) { return show_openapi(); }},
};

// What clients of OpenAI's and Anthropic's other interfaces ask for, and what there is instead.
struct Absent {
  std::string_view path, instead;
};
constexpr std::array kAbsent = {
    Absent{"/v1/responses", "the Responses API is not served; use POST /v1/chat/completions"},
    Absent{"/v1/messages", "Anthropic's Messages API is not served; use POST /v1/chat/completions"},
    Absent{"/v1/embeddings", "this server generates text and makes no embeddings; there are POST /v1/chat/completions and /v1/completions"},
    Absent{"/v1/audio", "audio is not served; use POST /v1/chat/completions with text"},
    Absent{"/v1/images", "images are not served; use POST /v1/chat/completions with text"},
};

constexpr std::string_view kModelPrefix = "/v1/models/";

// A base URL is often given without its /v1, or with it where there should be none.
std::string full_path(std::string_view path) {
  const std::string_view rest = path.starts_with("/v1/") ? path.substr(3) : path;
  for (std::string_view known : {"/chat/completions", "/completions", "/models", "/responses", "/messages", "/embeddings"})
    if (rest == known || (rest.starts_with(known) && rest[known.size()] == '/')) return "/v1" + std::string(rest);
  const bool is_plain = std::any_of(kEntries.begin(), kEntries.end(), [&](const Entry& entry) { return entry.path == rest; });
  return std::string(is_plain ? rest : path);
}

const Entry* find_entry(std::string_view path) {
  const auto found = std::find_if(kEntries.begin(), kEntries.end(), [&](const Entry& entry) { return entry.path == path; });
  return found == kEntries.end() ? nullptr : &*found;
}

[[noreturn]] void refuse_path(const HttpRequest& request, std::string_view path) {
  for (const Absent& absent : kAbsent)
    if (path == absent.path || (path.starts_with(absent.path) && path[absent.path.size()] == '/'))
      throw ApiError(404, std::string(absent.instead), "", "path_not_found");
  throw ApiError(404,
                 fmt::format("no such path: {}; there are POST /v1/chat/completions, /v1/completions, /tokenize and /detokenize, GET "
                             "/v1/models, /v1/models/ID, /tokenizer_info, /health, /metrics, /debug/trace, /version and /openapi.json",
                             request.target.substr(0, 200)),
                 "", "path_not_found");
}

}  // namespace

Route route_of(std::string_view path) {
  const std::string full = full_path(path);
  if (full.starts_with(kModelPrefix)) return Route::kModels;
  if (full.starts_with("/debug/")) return Route::kDebug;
  const Entry* entry = find_entry(full);
  return entry != nullptr ? entry->route : Route::kOther;
}

std::variant<HttpAnswer, Work> route(const ServerState& state, const HttpRequest& request) {
  const std::string path = full_path(request.path());
  const bool one_model = path.starts_with(kModelPrefix) && path.size() > kModelPrefix.size();
  const Entry* entry = find_entry(one_model ? "/v1/models" : path);
  if (entry == nullptr) refuse_path(request, path);
  require_method(request, entry->method);
  if (entry->needs_model && !state.is_loaded()) throw loading();
  if (one_model) return show_model(state, percent_decode(std::string_view(path).substr(kModelPrefix.size())));
  if (entry->show != nullptr) return entry->show(state);
  if (entry->show_for != nullptr) return entry->show_for(request);
  require_json(request);
  return entry->work;
}

HttpAnswer answer_of(const ApiError& error) {
  HttpAnswer answer;
  answer.status = error.status;
  answer.body = error.body();
  answer.headers = error.headers;
  if (error.retry_after_s > 0) {
    append_header(answer.headers, "Retry-After", fmt::format("{:.0f}", std::ceil(error.retry_after_s)));
    append_header(answer.headers, "retry-after-ms", fmt::format("{:.0f}", std::ceil(error.retry_after_s * 1000)));
    append_header(answer.headers, "x-should-retry", "true");
  } else if (error.must_not_retry) {
    append_header(answer.headers, "x-should-retry", "false");
  }
  return answer;
}

}  // namespace fastgen::server
