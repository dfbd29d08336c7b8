// Which keys of a model's JSON files may stand there. A key that nobody here reads might change results, so it is an error that
// names it, unless transformers takes no part of its forward pass from it, or its value asks for nothing, or the caller said that it
// may be ignored.
#pragma once

#include <span>
#include <string>

#include "model/json_fields.h"

namespace fastgen {

// Null, false, zero or empty: what a file says of a feature that the model lacks.
bool asks_for_nothing(simdjson::dom::element value);

// Each throws Error "<where>: <key> ..." at the first key that may not stand there; `ignored` holds whole names ("rope_scaling.x").
void check_config_keys(const JsonFields& config, std::span<const std::string> ignored);
void check_rope_keys(const JsonFields& rope, std::span<const std::string> ignored);
void check_generation_keys(const JsonFields& generation, std::span<const std::string> ignored);

}  // namespace fastgen
