// The flags of programs that make their own engine (fgserve, fgchat, fgbench): from the command line to an EngineConfig.
#pragma once

#include <CLI/CLI.hpp>

#include "fastgen/engine.h"

namespace fastgen {

// Both write to `config`, which must outlive the parsing.

// MODEL and what its weights are, in the group "Model".
void add_model_flags(CLI::App& app, EngineConfig& config);
// Where and how large, in the group "Engine".
void add_engine_flags(CLI::App& app, EngineConfig& config);

}  // namespace fastgen
