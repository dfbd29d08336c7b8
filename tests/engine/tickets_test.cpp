#include "engine/tickets.h"

#include <set>
#include <thread>
#include <vector>

#include "support/support.h"

using namespace fastgen;

TEST_CASE("tickets: as many as slots, and each comes back") {
  TicketTable tickets(3);
  std::set<std::uint32_t> slots;
  while (auto slot = tickets.take()) slots.insert(*slot);
  CHECK(slots == std::set<std::uint32_t>{0, 1, 2});
  CHECK(tickets.num_in_use() == 3);
  tickets.give_back(1);
  CHECK(tickets.take() == 1u);
}

TEST_CASE("tickets: a late cancel does not hit the slot's next request") {
  TicketTable tickets(1);
  const std::uint32_t slot = *tickets.take();
  const RequestId first = tickets.put(slot, {});
  CHECK(first != 0);
  CHECK(tickets.take_request()->id == first);
  CHECK(tickets.cancel(first, 2));
  CHECK(tickets.is_cancelled(first, 2));
  CHECK(!tickets.is_cancelled(first, 1));
  CHECK(tickets.take_any_cancelled());
  CHECK(!tickets.take_any_cancelled());
  tickets.give_back(slot);
  const RequestId second = tickets.put(*tickets.take(), {});
  CHECK(second != first);
  CHECK(!tickets.cancel(first, -1));
  CHECK(!tickets.is_cancelled(second, 2));
  CHECK(tickets.cancel(second, -1));
  CHECK(tickets.is_cancelled(second, 0));
  CHECK(!tickets.cancel(second, kMaxChoices));
  CHECK(!tickets.cancel(RequestId{1} << 32 | 7, 0));
}

TEST_CASE("tickets: requests from many threads all arrive once") {
  TicketTable tickets(8);
  constexpr int kThreads = 4, kEach = 2000;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach;) {
        if (const auto slot = tickets.take()) {
          Request request;
          request.user_tag = static_cast<std::uint64_t>(t * kEach + i++);
          tickets.cancel(tickets.put(*slot, std::move(request)), -1);
        } else {
          std::this_thread::yield();
        }
      }
    });
  }
  std::set<std::uint64_t> tags;
  while (tags.size() < kThreads * kEach) {
    if (const auto submitted = tickets.take_request()) {
      REQUIRE(tags.insert(submitted->request.user_tag).second);
      tickets.give_back(submitted->slot);
    }
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(tickets.num_in_use() == 0);
}
