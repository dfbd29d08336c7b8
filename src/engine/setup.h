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

// Throws Error naming the file or flag.
EngineSetup set_up_engine(const EngineConfig& config);

}  // namespace fastgen
