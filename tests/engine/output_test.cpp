#include "engine/output.h"

#include "support/support.h"

using namespace fastgen;

namespace {

Event token_event(TokenId token) {
  Event event;
  event.token = token;
  return event;
}

}  // namespace

TEST_CASE("output: alternatives stay readable until the next pop, although the ring is full again") {
  OutputRing ring(4);
  for (TokenId token = 0; token < 4; ++token) ring.push(token_event(token), std::vector<TopLogprob>{{token, -1.0f}});
  Event event;
  TokenId next = 4;
  for (TokenId token = 0; token < 50; ++token) {
    REQUIRE(ring.pop(event));
    ring.push(token_event(next), std::vector<TopLogprob>{{next, -2.0f}, {next, -3.0f}});
    ++next;
    CHECK(event.token == token);
    REQUIRE(ring.top(event).size() == (token < 4 ? 1 : 2));
    CHECK(ring.top(event)[0].id == token);
  }
}

TEST_CASE("output: room counts promises, finish events wait for it, the last one gives the ticket back first") {
  OutputRing ring(4);
  int num_last = 0;
  const auto on_last = [&](const Event&) { ++num_last; };
  CHECK(ring.room() == 4);
  ring.promise(3);
  CHECK(ring.room() == 1);
  Event finish;
  finish.kind = EventKind::kFinish;
  ring.push_finish(finish);
  finish.last_of_request = true;
  ring.push_finish(finish);
  ring.flush(on_last);
  CHECK(ring.has_unsent());  // the second one would take a promised record
  CHECK(num_last == 0);
  CHECK(ring.room() == -1);
  ring.redeem(3);
  ring.flush(on_last);
  CHECK(!ring.has_unsent());
  CHECK(num_last == 1);
  CHECK(ring.wait(0));
}

TEST_CASE("output: after close the consumer takes the finish events that had no room") {
  OutputRing ring(2);
  Event finish;
  finish.kind = EventKind::kFinish;
  finish.last_of_request = true;
  int num_events = 0, num_last = 0;
  const auto on_last = [&](const Event&) { ++num_last; };
  for (int i = 0; i < 5; ++i) ring.push_finish(finish);
  ring.flush(on_last);
  CHECK(num_last == 2);
  ring.close(on_last);
  CHECK(num_last == 5);  // their tickets do not wait for the consumer
  while (ring.wait(-1))  // ends: nobody signals any more
    for (Event event; ring.pop(event);) ++num_events;
  CHECK(num_events == 5);
  CHECK(!ring.wait(-1));
}
