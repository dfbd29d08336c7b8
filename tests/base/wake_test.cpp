#include "base/wake.h"

#include <atomic>
#include <thread>

#include "base/clock.h"
#include "base/spsc_ring.h"
#include "support/support.h"

using fastgen::now_us;
using fastgen::SpscRing;
using fastgen::Wake;

TEST_CASE("wake: a signal stays until it is drained, several are one") {
  Wake wake;
  CHECK(wake.fd() >= 0);
  CHECK_FALSE(wake.wait(0));
  wake.signal();
  wake.signal();
  CHECK(wake.wait(0));
  CHECK(wake.wait(-1));
  wake.drain();
  CHECK_FALSE(wake.wait(0));
  wake.drain();  // nothing there: returns at once
}

TEST_CASE("wake: wait sleeps for as long as it was told") {
  Wake wake;
  const std::uint64_t start_us = now_us();
  CHECK_FALSE(wake.wait(30));
  CHECK(now_us() - start_us >= 29000);
}

TEST_CASE("wake: with a ring, no element is slept through") {
  constexpr int kCount = 20000;
  SpscRing<int> ring(8);
  Wake wake;
  std::thread producer([&] {
    for (int i = 0; i < kCount;) {
      if (ring.push(i)) {
        ++i;
        wake.signal();
      } else {
        std::this_thread::yield();
      }
    }
  });
  int next = 0, num_timeouts = 0;
  while (next < kCount && num_timeouts == 0) {
    if (!wake.wait(20000)) ++num_timeouts;
    wake.drain();
    for (int value; ring.pop(value); ++next) REQUIRE(value == next);
  }
  producer.join();
  CHECK(num_timeouts == 0);
  CHECK(next == kCount);
}

TEST_CASE("clock: never goes back") {
  std::uint64_t last = now_us();
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t now = now_us();
    REQUIRE(now >= last);
    last = now;
  }
}
