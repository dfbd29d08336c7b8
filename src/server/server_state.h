// What all threads of a server share. Const after start, or atomic.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <ctime>
#include <mutex>
#include <string>

#include "fastgen/engine.h"
#include "server/prompts.h"
#include "server/server.h"
#include "server/text_pool.h"

namespace fastgen::server {

struct ServerState {
  ServerState(ServerConfig config_in, Engine& engine_in, TextTools tools_in)
      : config(std::move(config_in)), engine(engine_in), tools(std::move(tools_in)), text_pool(config.num_text_threads) {}

  const ServerConfig config;
  Engine& engine;
  const TextTools tools;
  TextPool text_pool;
  const std::int64_t start_time = std::time(nullptr);

  std::atomic<bool> draining{false};
  std::atomic<int> num_connections{0};  // accepted and not closed
  std::atomic<int> num_answers{0};      // requests between admission and the last byte
  std::atomic<std::uint64_t> num_seeds{0};

  // Where drain() waits for num_connections to become 0.
  std::mutex closed_mutex;
  std::condition_variable closed;

  const std::string& model_name() const { return config.model_names.front(); }
  bool knows_model(const std::string& name) const;
  std::uint64_t next_seed();
  void connection_closed();
};

// "chatcmpl-" and 32 hex digits.
std::string make_id(const char* prefix);

}  // namespace fastgen::server
