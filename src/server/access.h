// Who may ask: API keys, origins of other web pages, connections per address. Const after making, but for AddressCounts.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "server/api_error.h"
#include "server/http_message.h"

namespace fastgen::server {

// Equal texts; the time depends on the lengths alone, so that no byte of a key can be guessed by the clock.
bool equal_in_constant_time(std::string_view a, std::string_view b);

class Access {
 public:
  Access(std::vector<std::string> api_keys, std::vector<std::string> cors_origins);

  // 401 without one of the keys, as "Authorization: Bearer KEY" or "x-api-key: KEY". Health needs none.
  std::optional<ApiError> refusal(const HttpRequest& request) const;
  // The header lines that let a page of an allowed origin read the answer; empty: none.
  std::string cors_headers(const HttpRequest& request) const;
  // The answer to a browser's question before a request (OPTIONS with Access-Control-Request-Method); none: it is no such question.
  std::optional<HttpAnswer> preflight(const HttpRequest& request) const;

 private:
  bool allows(std::string_view origin) const;
  std::vector<std::string> api_keys_, cors_origins_;
};

// Open connections by address. Thread-safe.
class AddressCounts {
 public:
  explicit AddressCounts(std::size_t most) : most_(most) {}  // 0: no limit, nothing is counted
  // False: the address has its most already, and this one is not counted.
  bool enter(const std::string& address);
  void leave(const std::string& address);

 private:
  const std::size_t most_;
  std::mutex mutex_;
  std::unordered_map<std::string, std::size_t> counts_;
};

}  // namespace fastgen::server
