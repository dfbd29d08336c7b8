// The flags of programs that make their own engine (fgchat, fgbench): from the command line to an EngineConfig.
#pragma once

#include <CLI/CLI.hpp>

#include "fastgen/engine.h"

namespace fastgen {

// Adds MODEL and the flags of the engine to `app`; they are written to `config`, which must outlive the parsing.
void add_engine_flags(CLI::App& app, EngineConfig& config);

}  // namespace fastgen
