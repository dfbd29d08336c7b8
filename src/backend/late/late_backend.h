// The late backend: wraps any other and runs queued work only when something waits on it, in the worst order
// that the contract allows. So a missing wait or fence, or a staging buffer that is used again too early,
// shows as wrong results without a GPU.
//
//   compute   | embed attend ... [f1] | embed ...            f: record, w: wait
//   copy-in   | upload [f2]                                  host_wait(f3) runs copy-out up to f3; at w(f1)
//   it first copy-out  | w(f1) download [f3]                          runs compute up to f1; copy-in and the
//   rest stay queued
//
// Invariants: 1. the work of one stream runs in order; 2. nothing behind a wait runs before its fence; 3.
// nothing runs before host_wait, or the poll of passed() after num_false_polls false ones, forces it; copies
// read and write their host memory only then. 4. What is forced beyond need is a choice of the seed: seed 0
// runs nothing more, seed 1 runs every other stream as far as it may go first, another seed draws between the
// two at each point.
//
// Between begin_capture and end_capture ops on compute go straight to the wrapped backend's recorder; a
// replay is queued like an op. Work still queued at the end is dropped.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/backend.h"

namespace fastgen {

std::unique_ptr<Backend> make_late_backend(std::unique_ptr<Backend> inner, std::uint64_t seed,
                                           int num_false_polls = 3);

}  // namespace fastgen
