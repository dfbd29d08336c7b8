// What all threads of a server share. Const after start, or atomic, or with a lock of its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <ctime>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fastgen/engine.h"
#include "server/access.h"
#include "server/admission.h"
#include "server/metrics.h"
#include "server/prompts.h"
#include "server/request_log.h"
#include "server/server.h"
#include "server/text_pool.h"

namespace fastgen::server {

struct ServerState {
  explicit ServerState(ServerConfig config_in);

  const ServerConfig config;
  const Access access;
  AddressCounts addresses;
  Admission admission;
  RequestLog request_log;
  TextPool text_pool;
  std::vector<std::unique_ptr<ThreadMetrics>> metrics;  // by io thread
  const std::int64_t start_time = std::time(nullptr);

  std::atomic<int> loaded_percent{0};
  std::atomic<bool> draining{false};
  std::atomic<int> num_connections{0};  // accepted and not closed
  std::atomic<int> num_answers{0};      // requests between admission and the last byte
  std::atomic<std::uint64_t> num_seeds{0};

  // Where drain() waits for num_connections to become 0.
  std::mutex closed_mutex;
  std::condition_variable closed;

  // Once: from here on is_loaded.
  void attach(Engine& engine, TextTools tools);
  bool is_loaded() const { return engine_.load(std::memory_order_acquire) != nullptr; }
  // When loaded.
  Engine& engine() const { return *engine_.load(std::memory_order_acquire); }
  const TextTools& tools() const { return tools_; }

  // Requests that no step has begun. The engine's own count is that of its last step, which may be long ago; so tickets count too.
  std::int64_t num_waiting(const EngineStats& stats) const;

  const std::string& model_name() const { return config.model_names.front(); }
  bool knows_model(const std::string& name) const;
  std::uint64_t next_seed();
  void connection_closed();

 private:
  TextTools tools_;
  // Publishes tools_: released by attach, acquired by is_loaded.
  std::atomic<Engine*> engine_{nullptr};
};

// "chatcmpl-" and 32 hex digits.
std::string make_id(const char* prefix);

}  // namespace fastgen::server
