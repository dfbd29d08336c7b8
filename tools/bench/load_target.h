// Where a load goes to: a server's address, and the heads of requests to it.
#pragma once

#include <cstddef>
#include <string>

namespace fastgen::bench {

struct LoadTarget {
  std::string host = "127.0.0.1";
  std::string port = "8000";
  std::string unix_path;  // of a Unix socket, instead of host and port; empty: none
  std::string path;       // "/v1/completions"
  std::string api_key;    // empty: none
};
// "http://host:port", "/v1" behind it allowed, or "unix:" and a path; the path of requests is left empty. Throws Error naming --url.
LoadTarget parse_url(const std::string& url);

// The head of an HTTP/1.1 request, the empty line included. A body, if there is one, is JSON.
std::string request_head(const LoadTarget& target, const char* method, const std::string& path, std::size_t body_bytes);

}  // namespace fastgen::bench
