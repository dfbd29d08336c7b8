#include "server/server_state.h"

#include <algorithm>
#include <random>

#include <fmt/format.h>

namespace fastgen::server {

namespace {

std::uint64_t random_bits() {
  thread_local std::mt19937_64 generator = [] {
    std::random_device device;
    std::seed_seq seeds{device(), device(), device(), device(), device(), device(), device(), device()};
    return std::mt19937_64(seeds);
  }();
  return generator();
}

// SplitMix64's finalizer (Steele et al. 2014): neighbouring counts give unrelated seeds.
std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

}  // namespace

ServerState::ServerState(ServerConfig config_in)
    : config(std::move(config_in)),
      access(config.api_keys, config.cors_origins),
      addresses(config.max_connections_per_address),
      admission(config.max_wait_s),
      request_log(config.request_log),
      text_pool(config.num_text_threads) {
  for (int i = 0; i < config.num_io_threads; ++i) metrics.push_back(std::make_unique<ThreadMetrics>());
}

void ServerState::attach(Engine& engine, TextTools tools) {
  tools_ = std::move(tools);
  engine_.store(&engine, std::memory_order_release);
}

std::int64_t ServerState::num_waiting(const EngineStats& stats) const {
  return std::max<std::int64_t>(stats.num_waiting, std::int64_t{stats.tickets_in_use} - engine().info().max_batch);
}

bool ServerState::knows_model(const std::string& name) const {
  return std::find(config.model_names.begin(), config.model_names.end(), name) != config.model_names.end();
}

std::uint64_t ServerState::next_seed() {
  if (!config.seed) return random_bits();
  return mix(*config.seed + (num_seeds.fetch_add(1, std::memory_order_relaxed) + 1) * 0x9E3779B97F4A7C15);
}

void ServerState::connection_closed() {
  std::lock_guard lock(closed_mutex);
  num_connections.fetch_sub(1, std::memory_order_relaxed);
  closed.notify_all();
}

std::string make_id(const char* prefix) { return fmt::format("{}{:016x}{:016x}", prefix, random_bits(), random_bits()); }

}  // namespace fastgen::server
