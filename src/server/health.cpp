#include "server/health.h"

#include <algorithm>

#include "base/clock.h"
#include "base/json_writer.h"
#include "server/server_state.h"

namespace fastgen::server {

std::string_view health_name(HealthStatus status) {
  switch (status) {
    case HealthStatus::kLoading: return "loading";
    case HealthStatus::kReady: return "ready";
    case HealthStatus::kBusy: return "busy";
    case HealthStatus::kStalled: return "stalled";
    case HealthStatus::kDraining: return "draining";
    case HealthStatus::kFailed: return "failed";
  }
  return "failed";
}

namespace {

HealthStatus status_of(const ServerState& state, const EngineStats& stats, const Health& health) {
  if (stats.failed) return HealthStatus::kFailed;
  if (health.silent_s > state.config.stall_s) return HealthStatus::kStalled;
  if (state.draining) return HealthStatus::kDraining;
  const bool is_full = stats.tickets_in_use >= state.engine().info().max_queue;
  const bool waits_long = state.config.max_wait_s > 0 && health.expected_wait_s > state.config.max_wait_s;
  return is_full || waits_long ? HealthStatus::kBusy : HealthStatus::kReady;
}

Health health_of(const ServerState& state, const EngineStats& stats) {
  Health health;
  health.percent = state.loaded_percent;
  if (!state.is_loaded()) return health;
  health.percent = 100;
  health.silent_s = static_cast<double>(stats.silent_us) * 1e-6;
  health.expected_wait_s = state.admission.expected_wait_s(state.num_waiting(stats), now_us());
  health.status = status_of(state, stats, health);
  return health;
}

HttpAnswer short_answer(const Health& health, bool is_good) {
  HttpAnswer answer;
  answer.status = is_good ? 200 : 503;
  JsonWriter(answer.body).begin_object().field("status", health_name(health.status)).end_object();
  return answer;
}

void write_counts(JsonWriter& json, const EngineStats& stats) {
  json.field("tickets_in_use", stats.tickets_in_use).field("waiting", stats.num_waiting).field("running", stats.num_running);
  json.field("blocks", stats.num_blocks).field("free_blocks", stats.num_free_blocks).field("steps", stats.num_steps);
  json.field("finished", stats.num_finished).field("preemptions", stats.num_preemptions).field("ring_waits", stats.num_ring_waits);
  json.field("page_outs", stats.num_page_outs).field("page_ins", stats.num_page_ins);
  json.field("host_blocks", stats.num_host_blocks).field("free_host_blocks", stats.num_free_host_blocks);
}

}  // namespace

Health health_of(const ServerState& state) { return health_of(state, state.is_loaded() ? state.engine().stats() : EngineStats{}); }

HttpAnswer show_health(const ServerState& state) {
  const EngineStats stats = state.is_loaded() ? state.engine().stats() : EngineStats{};
  const Health health = health_of(state, stats);
  HttpAnswer answer;
  answer.status = health.is_ready() ? 200 : 503;
  JsonWriter json(answer.body);
  json.begin_object().field("status", health_name(health.status)).field("loaded_percent", health.percent);
  json.field("silent_s", health.silent_s).field("expected_wait_s", health.expected_wait_s);
  json.field("connections", state.num_connections.load()).field("answers", state.num_answers.load());
  write_counts(json, stats);
  json.end_object();
  return answer;
}

HttpAnswer show_live(const ServerState& state) {
  const Health health = health_of(state);
  return short_answer(health, health.is_live());
}

HttpAnswer show_ready(const ServerState& state) {
  const Health health = health_of(state);
  return short_answer(health, health.is_ready());
}

}  // namespace fastgen::server
