// The engine's costly invariants, off unless a test turns them on before it creates an engine.
#pragma once

#include <atomic>

namespace fastgen {

// Every plan and all bookkeeping are checked in every step; a broken invariant aborts.
extern std::atomic<bool> check_every_step;

}  // namespace fastgen
