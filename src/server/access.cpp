#include "server/access.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace fastgen::server {

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  unsigned char difference = a.size() != b.size();
  for (std::size_t i = 0; i < b.size(); ++i)
    difference = static_cast<unsigned char>(difference | ((a.empty() ? 0 : a[i % a.size()]) ^ b[i]));
  return difference == 0;
}

namespace {

bool is_bearer(std::string_view text) {
  constexpr std::string_view kBearer = "bearer ";
  return text.size() > kBearer.size() && std::equal(kBearer.begin(), kBearer.end(), text.begin(), [](char a, unsigned char b) {
    return a == std::tolower(b);
  });
}

std::string_view key_of(const HttpRequest& request) {
  std::string_view text = request.header("authorization");
  if (is_bearer(text)) {
    text.remove_prefix(7);
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
    return text;
  }
  return request.header("x-api-key");
}

}  // namespace

Access::Access(std::vector<std::string> api_keys, std::vector<std::string> cors_origins)
    : api_keys_(std::move(api_keys)), cors_origins_(std::move(cors_origins)) {}

std::optional<ApiError> Access::refusal(const HttpRequest& request) const {
  const std::string_view path = request.path();
  if (api_keys_.empty() || path == "/health" || path == "/health/live" || path == "/health/ready") return std::nullopt;
  const std::string_view key = key_of(request);
  bool known = false;
  for (const std::string& own : api_keys_) known |= equal_in_constant_time(key, own);  // all of them, whichever matches
  if (known) return std::nullopt;
  ApiError error(401, key.empty() ? "an API key is needed: Authorization: Bearer KEY" : "the API key is not known here", "", "invalid_api_key");
  append_header(error.headers, "WWW-Authenticate", "Bearer");
  return error;
}

bool Access::allows(std::string_view origin) const {
  return std::any_of(cors_origins_.begin(), cors_origins_.end(), [&](const std::string& own) { return own == "*" || own == origin; });
}

std::string Access::cors_headers(const HttpRequest& request) const {
  const std::string_view origin = request.header("origin");
  std::string lines;
  if (cors_origins_.empty()) return lines;
  append_header(lines, "Vary", "Origin");
  if (origin.empty() || !allows(origin)) return lines;
  append_header(lines, "Access-Control-Allow-Origin", origin);
  append_header(lines, "Access-Control-Expose-Headers",
                "x-request-id, x-fastgen-ignored-params, server-timing, retry-after, retry-after-ms, x-should-retry");
  return lines;
}

std::optional<HttpAnswer> Access::preflight(const HttpRequest& request) const {
  if (request.method != "OPTIONS" || request.header("access-control-request-method").empty() || !allows(request.header("origin")))
    return std::nullopt;
  HttpAnswer answer;
  answer.status = 204;
  append_header(answer.headers, "Access-Control-Allow-Methods", "GET, HEAD, POST");
  const std::string_view wanted = request.header("access-control-request-headers");
  append_header(answer.headers, "Access-Control-Allow-Headers", wanted.empty() ? "authorization, content-type" : wanted);
  append_header(answer.headers, "Access-Control-Max-Age", "600");
  return answer;
}

bool AddressCounts::enter(const std::string& address) {
  if (most_ == 0) return true;
  const std::lock_guard lock(mutex_);
  std::size_t& count = counts_[address];
  if (count >= most_) return false;
  ++count;
  return true;
}

void AddressCounts::leave(const std::string& address) {
  if (most_ == 0) return;
  const std::lock_guard lock(mutex_);
  const auto found = counts_.find(address);
  if (found != counts_.end() && --found->second == 0) counts_.erase(found);
}

}  // namespace fastgen::server
