#include "bench/load_target.h"

#include <sys/un.h>

#include <string_view>

#include <fmt/format.h>

#include "fastgen/error.h"

namespace fastgen::bench {

LoadTarget parse_url(const std::string& url) {
  constexpr std::string_view kScheme = "http://", kUnix = "unix:";
  if (url.starts_with(kUnix)) {
    LoadTarget target;
    target.unix_path = url.substr(kUnix.size());
    if (target.unix_path.empty() || target.unix_path.size() >= sizeof(sockaddr_un::sun_path))
      throw Error(fmt::format("--url {}: needs the path of a socket behind unix:, of at most {} bytes", url, sizeof(sockaddr_un::sun_path) - 1));
    return target;
  }
  if (!url.starts_with(kScheme)) throw Error(fmt::format("--url {}: must begin with http:// or unix:", url));
  std::string rest = url.substr(kScheme.size());
  while (rest.ends_with('/')) rest.pop_back();
  if (rest.ends_with("/v1")) rest.resize(rest.size() - 3);
  LoadTarget target;
  const std::size_t colon = rest.rfind(':'), bracket = rest.rfind(']');
  const bool has_port = colon != std::string::npos && (bracket == std::string::npos || colon > bracket);
  target.host = has_port ? rest.substr(0, colon) : rest;
  target.port = has_port ? rest.substr(colon + 1) : "80";
  if (target.host.starts_with('[') && target.host.ends_with(']')) target.host = target.host.substr(1, target.host.size() - 2);
  if (target.host.empty() || target.port.empty() || rest.find('/') != std::string::npos ||
      target.port.find_first_not_of("0123456789") != std::string::npos)
    throw Error(fmt::format("--url {}: needs the form http://HOST:PORT", url));
  return target;
}

std::string request_head(const LoadTarget& target, const char* method, const std::string& path, std::size_t body_bytes) {
  const std::string host = target.unix_path.empty() ? fmt::format("{}:{}", target.host, target.port) : "localhost";
  std::string head = fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream, application/json\r\n", method, path, host);
  if (!target.api_key.empty()) head += fmt::format("Authorization: Bearer {}\r\n", target.api_key);
  if (body_bytes > 0) head += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", body_bytes);
  return head + "\r\n";
}

}  // namespace fastgen::bench
