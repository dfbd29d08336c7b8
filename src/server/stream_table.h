// Which answer an engine event belongs to: tags of open engine requests, one table per io thread.
//
// A tag lives from open() until the engine's last event of that request, also when the client has gone
// before: then events meet no sink and are dropped. So num_open() is what this thread has in the engine.
// Not thread-safe: belongs to its io thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fastgen/engine.h"

namespace fastgen::server {

class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void on_event(std::size_t prompt_idx, const Event& event, std::span<const TopLogprob> top) = 0;
  // After the events of one drain. Must not destroy a sink.
  virtual void on_drained() = 0;
};

class StreamTable {
 public:
  std::uint64_t open(EventSink* sink, std::size_t prompt_idx);
  // Later events of this tag are dropped. A tag that is over is ignored.
  void detach(std::uint64_t tag);
  // Hands out at most max_events; true if there may be more.
  bool drain(EventRing& ring, std::size_t max_events);
  std::size_t num_open() const { return num_open_; }

 private:
  struct Slot {
    EventSink* sink = nullptr;
    std::size_t prompt_idx = 0;
    std::uint32_t serial = 0;  // the high half of the tag; grows at each reuse
    bool open = false;
  };
  Slot* find(std::uint64_t tag);
  void close(std::uint64_t tag);

  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::vector<EventSink*> touched_;
  std::size_t num_open_ = 0;
};

}  // namespace fastgen::server
