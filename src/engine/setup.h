// From an EngineConfig to a runner ready to take steps: model folder, config, backend, weights, the sizes of everything.
#pragma once

#include <memory>

#include "engine/plan.h"
#include "engine/runner.h"
#include "fastgen/engine.h"

namespace fastgen {

struct EngineSetup {
  EngineInfo info;
  SchedulerLimits limits;
  std::unique_ptr<Runner> runner;
};

// Throws Error naming the file or flag. `backend`: the caller's own instead of the one that the config names.
EngineSetup set_up_engine(const EngineConfig& config, std::unique_ptr<Backend> backend = nullptr);

// The engine over it, its thread started. Engine::create is the two in turn.
std::unique_ptr<Engine> start_engine(const EngineConfig& config, EngineSetup setup);

}  // namespace fastgen
