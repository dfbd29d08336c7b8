// The part of config.json that says how positions rotate, in both of its notations.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "model/config.h"
#include "model/json_fields.h"

namespace fastgen {

// rope_theta and rope_scaling (older files), or rope_parameters (transformers 5, which moved rope_theta in); where both are there
// they must agree. `max_positions` is max_position_embeddings, `ignored` holds keys that may stand there unread. Throws Error naming the file and the key.
RopeConfig read_rope(const JsonFields& config, std::int32_t max_positions, std::span<const std::string> ignored);

}  // namespace fastgen
