// The OpenAI-compatible HTTP server over an engine. Needs no files: whoever makes it loads them.
//
//   Server server(config, *engine, tokenizer, chat_template);
//   server.start();                // listening when it returns
//   ...                            // until a signal
//   server.drain(30);              // or just the destructor
//
// Threads: all calls from one thread, but failed(). It starts num_io_threads io threads and num_text_threads text
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
  std::vector<std::string> model_names;     // at least one; answers carry the first
  bool strict_model = false;                // refuse other names than these
  int num_io_threads = 1;
  int num_text_threads = 1;                 // 0..4; for prompts longer than long_prompt_bytes
  std::size_t long_prompt_bytes = 16 << 10;
  std::size_t max_body_bytes = 32 << 20;    // 413 above
  std::size_t max_header_bytes = 16 << 10;  // 431 above
  std::size_t max_stream_bytes = 1 << 20;   // unsent bytes above which a stream is cancelled
  bool trust_content = false;               // control tokens inside messages count as such
  bool split_reasoning = false;             // thinking goes to reasoning_content (server/reasoning.h)
  std::optional<std::uint64_t> seed;        // requests without a seed get theirs from this one, in order of arrival
};

class Server {
 public:
  // `chat_template` null: chat requests are refused. `engine` outlives the server.
  Server(ServerConfig config, Engine& engine, std::shared_ptr<const Tokenizer> tokenizer,
         std::shared_ptr<const ChatTemplate> chat_template);
  ~Server();  // as drain(0)

  // Throws Error naming address and port where it cannot listen.
  void start();
  std::uint16_t port() const;
  std::string url() const;  // "http://127.0.0.1:5678"

  // No new connections; running answers get that long to end, then an error. True if all of them ended by themselves.
  bool drain(double seconds);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastgen::server
