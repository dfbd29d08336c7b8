// Runs two backends side by side and compares them after each op: the first op that differs ends the run with an Error that names it,
// the layer, the tensor and the worst element.
//
//   tested:     embed -> norm -> qkv ->        what the engine sees and gets
//                 |       |      |  compare
//   reference:  embed -> norm -> qkv ->        starts every op from what the tested one left, so that rounding does not add up
//
// The addresses that callers hold are the tested backend's; each device buffer has a twin in the reference, whose device memory
// must be the host's (cpu). Every op waits for its result, and there are no graphs: this is for finding faults, not for speed.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace fastgen {

// "check" is cuda against cpu; "check:cpu" cpu against cpu, which says that the check itself is right.
std::unique_ptr<Backend> make_check_backend(std::unique_ptr<Backend> reference, std::unique_ptr<Backend> tested);

}  // namespace fastgen
