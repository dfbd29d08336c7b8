// What the server says of itself, told from progress rather than from being there. Answered from atomics and the engine's
// snapshot: never waits for a step.
#pragma once

#include <cstdint>
#include <string_view>

#include "server/http_message.h"

namespace fastgen::server {

struct ServerState;

enum class HealthStatus : std::uint8_t {
  kLoading,   // the model is being read
  kReady,     // takes requests
  kBusy,      // takes none at the moment: every place is taken, or those that wait would take over --max-wait-s
  kStalled,   // has work, and the engine gave no sign of getting on for --stall-s
  kDraining,  // stops when the running answers have ended
  kFailed,    // the backend gave up
};
std::string_view health_name(HealthStatus status);

struct Health {
  HealthStatus status = HealthStatus::kLoading;
  int percent = 0;         // loaded
  double silent_s = 0;     // since the engine's last sign of progress; 0: it has no work
  double expected_wait_s = 0;  // until a request that comes now is begun
  // A process that is worth keeping: else it must be started anew.
  bool is_live() const { return status != HealthStatus::kStalled && status != HealthStatus::kFailed; }
  // Requests may be sent here. A busy server answers some of them with 429, which says when to come again.
  bool is_ready() const { return status == HealthStatus::kReady || status == HealthStatus::kBusy; }
};

Health health_of(const ServerState& state);
// 200 or 503, and a JSON body with the status and the engine's counts.
HttpAnswer show_health(const ServerState& state);
HttpAnswer show_live(const ServerState& state);   // /health/live
HttpAnswer show_ready(const ServerState& state);  // /health/ready

}  // namespace fastgen::server
