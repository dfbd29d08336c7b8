// GET /metrics: Prometheus' text format 0.0.4. What vLLM counts too has vLLM's name and meaning behind the prefix (fastgen:, or
// vllm: with --metrics-compat vllm, so that its dashboards work); the rest is always fastgen:.
#pragma once

#include "server/http_message.h"

namespace fastgen::server {

struct ServerState;

HttpAnswer show_metrics(const ServerState& state);

}  // namespace fastgen::server
