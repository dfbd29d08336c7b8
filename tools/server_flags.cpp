#include "server_flags.h"

#include <cstdlib>
#include <fstream>
#include <thread>

#include <fmt/format.h>

#include "fastgen/error.h"

namespace fastgen {

namespace {

// One key a line; empty lines and # comments do not count.
void read_keys(const std::string& path, std::vector<std::string>& keys) {
  std::ifstream in(path);
  if (!in) throw Error(fmt::format("--api-key-file: cannot read {}", path));
  const std::size_t before = keys.size();
  for (std::string line; std::getline(in, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty() && line.front() != '#') keys.push_back(line);
  }
  if (keys.size() == before) throw Error(fmt::format("--api-key-file: {} holds no key", path));
}

// What browsers send as Origin: a scheme, a host, perhaps a port. Anything else would never match.
void check_origin(const std::string& origin) {
  const std::size_t colon = origin.find("://");
  const bool is_plain = colon != std::string::npos && colon > 0 && colon + 3 < origin.size() &&
                        origin.find_first_of("/?#@*, \t", colon + 3) == std::string::npos;
  if (!is_plain && origin != "*" && origin != "null")
    throw Error(fmt::format("--cors-origin {}: expected * or an origin such as http://localhost:3000, without a path, one for each flag", origin));
}

int default_io_threads() {
  const unsigned cores = std::thread::hardware_concurrency();
  return cores >= 32 ? 4 : cores >= 8 ? 2 : 1;
}

void add_access_flags(CLI::App& app, ServerFlags& flags) {
  server::ServerConfig& config = flags.config;
  const auto add = [&](const char* name, auto& value, const char* help) { return app.add_option(name, value, help)->group("Access"); };
  add("--api-key", config.api_keys, "Answer only requests with one of these keys (repeatable); health is open to all")->allow_extra_args(false);
  add("--api-key-file", flags.api_key_files, "The same, one key a line (repeatable)")->allow_extra_args(false);
  add("--cors-origin", config.cors_origins, "Let web pages of this origin use the server, * for all (repeatable)")->allow_extra_args(false);
  add("--tls-cert", config.tls_cert, "Serve HTTPS: certificate chain (PEM)");
  add("--tls-key", config.tls_key, "Its private key (PEM)");
  add("--unix-socket", config.unix_socket, "Also listen on this path, without TLS");
  add("--max-connections-per-address", config.max_connections_per_address, "Open connections of one address; 0: any number")->capture_default_str();
}

void add_limit_flags(CLI::App& app, server::ServerConfig& config) {
  const auto add = [&](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->group("Limits")->capture_default_str();
  };
  const auto add_seconds = [&](const char* name, double& value, const char* help, double low) { add(name, value, help)->check(CLI::Range(low, 1e6)); };
  add("--max-body-bytes", config.max_body_bytes, "Largest request body; larger ones get 413");
  add("--max-header-bytes", config.max_header_bytes, "Largest request header; larger ones get 431")->check(CLI::Range(std::size_t{256}, std::size_t{1} << 20));
  add("--max-stream-bytes", config.max_stream_bytes, "Unsent bytes at which a slow reader's stream is cancelled");
  add_seconds("--header-timeout-s", config.header_timeout_s, "For a request's header to come in", 0.1);
  add_seconds("--read-timeout-s", config.read_timeout_s, "Between two pieces of a request's body", 0.1);
  add_seconds("--write-timeout-s", config.write_timeout_s, "For a peer to take anything of its answer", 0.1);
  add_seconds("--keep-alive-s", config.keep_alive_s, "For the next request on a connection", 0.1);
  add_seconds("--sse-ping-s", config.sse_ping_s, "A silent stream gets a comment so often; 0: never", 0);
  add_seconds("--max-wait-s", config.max_wait_s, "Refuse requests that would wait longer for their first step (429); 0: only when the queue is full", 0);
  add_seconds("--stall-s", config.stall_s, "Without a sign of progress for so long the engine counts as stalled (/health)", 0.1);
}

}  // namespace

void add_server_flags(CLI::App& app, ServerFlags& flags) {
  server::ServerConfig& config = flags.config;
  config.num_io_threads = 0;
  const auto add = [&](const char* name, auto& value, const char* help) { return app.add_option(name, value, help)->group("Server"); };
  const auto add_switch = [&](const char* name, bool& value, const char* help) { app.add_flag(name, value, help)->group("Server"); };
  add("--host", config.host, "Address to listen on; 0.0.0.0 for all")->capture_default_str();
  add("--port", config.port, "Port to listen on; 0 for any free one")->check(CLI::Range(0, 65535))->capture_default_str();
  add("--served-model-name", config.model_names, "Name in answers and /v1/models (repeatable; the first is in answers)")
      ->allow_extra_args(false);
  add_switch("--strict-model", config.strict_model, "Refuse requests for a model of another name");
  add_switch("--strict", config.strict_params, "Refuse fields that are unknown or have no effect, rather than list them in a header");
  add("--io-threads", config.num_io_threads, "Threads for HTTP; 0: by the number of cores")
      ->check(CLI::Range(0, 64))->default_str("0");
  add("--text-threads", config.num_text_threads, "Threads that tokenize long prompts")
      ->check(CLI::Range(0, 4))->capture_default_str();
  add("--drain-s", flags.drain_s, "On SIGTERM: seconds that running answers get to end")
      ->check(CLI::Range(0.0, 1e6))->capture_default_str();
  add("--metrics-compat", flags.metrics_compat, "vllm: the names in /metrics that vLLM has too begin with vllm:")->check(CLI::IsMember({"vllm"}));
  add("--log-requests", config.request_log, "Append one JSON line per request to this file, - for stdout");
  add_switch("--log-contents", config.log_contents, "With prompts and answers in those lines");
  add("--log-level", flags.log_level, "debug, info, warn, error or off")->capture_default_str();
  add_switch("--verbose", flags.verbose, "Log level debug: also where the seconds of the start went");
  add_access_flags(app, flags);
  add_limit_flags(app, config);
}

void finish_server_flags(ServerFlags& flags) {
  server::ServerConfig& config = flags.config;
  for (const std::string& path : flags.api_key_files) read_keys(path, config.api_keys);
  for (const std::string& key : config.api_keys)
    if (key.empty()) throw Error("--api-key: a key must not be empty");
  // A secret that was lost on its way must not open the server to all.
  if (const char* key = std::getenv("FG_API_KEY"); key != nullptr && *key == '\0' && config.api_keys.empty())
    throw Error("FG_API_KEY is set but empty: unset it to serve everybody, or give a key");
  for (const std::string& origin : config.cors_origins) check_origin(origin);
  if (flags.metrics_compat == "vllm") config.metrics_prefix = "vllm:";
  if (config.num_io_threads == 0) config.num_io_threads = default_io_threads();
}

}  // namespace fastgen
