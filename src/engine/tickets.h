// The slot table: one slot per ticket, through which a request passes from any thread to the engine's.
//
//   free -- take --> held by a caller -- put --> in the engine -- give_back --> free
//
// A RequestId is generation << 32 | slot, so a cancel that comes late never hits the slot's next request.
// take, give_back, put and cancel: any thread. take_request and is_cancelled: the engine thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/mpmc_ring.h"
#include "fastgen/types.h"

namespace fastgen {

inline std::uint32_t slot_of(RequestId request) { return static_cast<std::uint32_t>(request); }

class TicketTable {
 public:
  explicit TicketTable(std::int32_t num_slots);

  std::optional<std::uint32_t> take();  // none: all are taken
  void give_back(std::uint32_t slot);
  std::int32_t num_in_use() const { return num_in_use_.load(std::memory_order_relaxed); }

  // Leaves a request for the engine and queues it; never fails, there are as many places as slots.
  RequestId put(std::uint32_t slot, Request request);
  struct Submitted {
    RequestId id = 0;
    std::uint32_t slot = 0;
    Request request;
  };
  std::optional<Submitted> take_request();

  // Marks one choice, or all with -1. False if the request is over.
  bool cancel(RequestId request, std::int32_t choice_idx);
  bool is_cancelled(RequestId request, std::int32_t choice_idx) const;
  // True once after each run of cancels: only then must anyone look at marks.
  bool take_any_cancelled() { return any_cancelled_.exchange(false, std::memory_order_acquire); }

 private:
  struct Slot {
    std::atomic<std::uint32_t> generation{0};  // of the request in it; grows with every put
    // The newest generation whose choice is cancelled; the last place stands for all choices.
    std::array<std::atomic<std::uint32_t>, kMaxChoices + 1> cancelled{};
    Request request;
  };

  const std::uint32_t num_slots_;
  const std::unique_ptr<Slot[]> slots_;
  MpmcRing<std::uint32_t> free_;
  MpmcRing<std::uint32_t> submitted_;  // publishes Slot::request to the engine
  std::atomic<std::int32_t> num_in_use_{0};  // for people: orders nothing
  // Publishes the marks in `cancelled`: released by cancel, acquired by take_any_cancelled.
  std::atomic<bool> any_cancelled_{false};
};

}  // namespace fastgen
