// Graphs for backends that compute on the host: a graph is the list of its calls with their arguments frozen,
// so that a value wrongly baked in (a length, a pointer to this step's array) shows without a GPU.
//
// A backend wraps the body of each op on the compute stream: `calls_.run(stream, [=] { ... });` The closure
// must hold its arguments by value (Tensors and the other argument structs are plain data), since it runs
// again at each replay.
//
// Owned by one backend, used from the thread that calls it.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/check.h"

namespace fastgen {

class CallRecorder {
 public:
  bool recording() const { return recording_; }

  void begin() {
    FG_CHECK(!recording_, graphs_.size());
    recording_ = true;
    graphs_.emplace_back();
  }
  GraphId end() {
    FG_CHECK(recording_, graphs_.size());
    recording_ = false;
    return static_cast<GraphId>(graphs_.size()) - 1;
  }
  void replay(GraphId graph) const {
    FG_CHECK(!recording_ && graph >= 0 && graph < static_cast<GraphId>(graphs_.size()), graph,
             graphs_.size());
    for (const std::function<void()>& call : graphs_[static_cast<std::size_t>(graph)]) call();
  }

  // Runs `call` now or, between begin() and end(), keeps it for replay. Only the compute stream may be
  // captured.
  template <typename Call>
  void run(Stream stream, Call&& call) {
    if (!recording_) {
      call();
      return;
    }
    FG_CHECK(stream == Stream::kCompute, static_cast<int>(stream));
    graphs_.back().emplace_back(std::forward<Call>(call));
  }

 private:
  bool recording_ = false;
  std::vector<std::vector<std::function<void()>>> graphs_;  // by GraphId
};

}  // namespace fastgen
