// The OpenAI-compatible HTTP server over an engine. Needs no files but for TLS: whoever makes it loads them.
//
//   Server server(config);
//   server.start();                                     // listening when it returns; answers that the model is loading
//   server.attach(*engine, {tokenizer, chat_template}); // serves
//   ...                                                 // until a signal
//   server.drain(30);                                   // or just the destructor
//
// Threads: all calls from one thread, but set_loaded. It starts num_io_threads io threads and num_text_threads text
// threads of its own; the engine needs num_event_rings >= num_io_threads, which are the server's alone.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fastgen/engine.h"
#include "fastgen/text.h"

namespace fastgen::server {

struct ServerConfig {
  std::string host = "127.0.0.1";
  std::uint16_t port = 5678;                // 0: any free one, see Server::port
  std::string unix_socket;                  // also listen on this path; empty: no
  std::vector<std::string> model_names;     // at least one; answers carry the first
  bool strict_model = false;                // refuse other names than these
  bool strict_params = false;               // refuse fields that are unknown or have no effect, rather than list them
  int num_io_threads = 1;
  int num_text_threads = 1;                 // 0..4; for prompts longer than long_prompt_bytes
  std::size_t long_prompt_bytes = 16 << 10;
  bool trust_content = false;               // control tokens inside messages count as such
  bool trust_request_template = false;      // requests may bring chat templates of their own
  std::optional<std::uint64_t> seed;        // requests without a seed get theirs from this one, in order of arrival

  // ---- access
  std::vector<std::string> api_keys;        // empty: none is asked for
  std::vector<std::string> cors_origins;    // "*": any
  std::string tls_cert, tls_key;            // PEM files, both or neither

  // ---- limits
  std::size_t max_body_bytes = 32 << 20;    // 413 above
  std::size_t max_header_bytes = 16 << 10;  // 431 above
  std::size_t max_stream_bytes = 1 << 20;   // unsent bytes above which a stream is cancelled
  std::size_t max_connections_per_address = 0;  // 0: any
  double header_timeout_s = 10;  // from a request's first byte (or the connection) to the end of its header
  double read_timeout_s = 30;    // between two pieces of a body
  double write_timeout_s = 60;   // without the peer taking a byte
  double keep_alive_s = 75;      // between two requests
  double sse_ping_s = 15;        // a silent stream gets a comment so often; 0: never

  // ---- overload
  double max_wait_s = 0;  // refuse a request that would wait longer for its first step; 0: only a full queue refuses
  double stall_s = 30;    // without a sign of progress the engine counts as stalled

  // ---- what it tells
  std::string metrics_prefix = "fastgen:";
  std::string request_log;    // a file for one JSON line per request, "-" for stdout; empty: none
  bool log_contents = false;  // with prompts and answers
};

// What belongs to the model's text rather than to its engine.
struct ServedText {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // null: chat requests are refused
  bool split_reasoning = false;                       // thinking goes to reasoning_content (server/reasoning.h)
};

class Server {
 public:
  explicit Server(ServerConfig config);
  ~Server();  // as drain(0)

  // Throws Error naming what cannot be used: address and port, the socket's path, a TLS file, the log.
  void start();
  std::uint16_t port() const;
  std::string url() const;  // "http://127.0.0.1:5678"

  // How much of the model is there; any thread.
  void set_loaded(std::uint64_t done_bytes, std::uint64_t total_bytes);
  // `engine` outlives the server. Once, after start.
  void attach(Engine& engine, ServedText text);

  // No new connections; running answers get that long to end, then an error. True if all of them ended by themselves.
  bool drain(double seconds);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastgen::server
