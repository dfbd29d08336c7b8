#include "base/spsc_ring.h"

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "support/support.h"

using fastgen::SpscRing;

TEST_CASE("spsc_ring: holds what it promises, in order, and says when it is full or empty") {
  SpscRing<int> ring(5);
  CHECK(ring.capacity() == 8);
  CHECK(ring.free_slots() == 8);
  CHECK(ring.front() == nullptr);
  int value = -1;
  CHECK_FALSE(ring.pop(value));
  CHECK(value == -1);
  for (int i = 0; i < 8; ++i) CHECK(ring.push(i));
  CHECK_FALSE(ring.push(8));
  CHECK(ring.free_slots() == 0);
  CHECK(ring.size() == 8);
  REQUIRE(ring.front() != nullptr);
  CHECK(*ring.front() == 0);
  for (int i = 0; i < 8; ++i) {
    REQUIRE(ring.pop(value));
    CHECK(value == i);
  }
  CHECK(ring.free_slots() == 8);
}

TEST_CASE("spsc_ring: a refused push leaves a move-only value with its owner") {
  SpscRing<std::unique_ptr<int>> ring(1);
  CHECK(ring.capacity() == 1);
  CHECK(ring.push(std::make_unique<int>(1)));
  auto second = std::make_unique<int>(2);
  CHECK_FALSE(ring.push(std::move(second)));
  REQUIRE(second != nullptr);
  CHECK(*second == 2);
  std::unique_ptr<int> out;
  REQUIRE(ring.pop(out));
  CHECK(*out == 1);
}

TEST_CASE("spsc_ring: agrees with a deque under random single and batch operations") {
  std::mt19937_64 random(fastgen::test::seed());
  SpscRing<int> ring(16);
  std::deque<int> model;
  int next = 0;
  std::array<int, 24> batch;
  for (int step = 0; step < 20000; ++step) {
    const std::size_t count = random() % 24;
    if (random() % 2) {
      for (std::size_t i = 0; i < count; ++i) batch[i] = next + static_cast<int>(i);
      const std::size_t pushed = ring.push_some(std::span<const int>(batch.data(), count));
      REQUIRE(pushed == std::min(count, 16 - model.size()));
      for (std::size_t i = 0; i < pushed; ++i) model.push_back(next++);
    } else {
      const std::size_t popped = ring.pop_some(std::span<int>(batch.data(), count));
      REQUIRE(popped == std::min(count, model.size()));
      for (std::size_t i = 0; i < popped; ++i) {
        REQUIRE(batch[i] == model.front());
        model.pop_front();
      }
    }
    REQUIRE(ring.size() == model.size());
    REQUIRE(ring.free_slots() == 16 - model.size());
  }
}

namespace {

// Wide enough that a torn or early read shows.
struct Record {
  std::array<std::uint64_t, 6> words{};
};

Record make_record(std::uint64_t i) {
  Record record;
  for (std::size_t k = 0; k < record.words.size(); ++k) record.words[k] = i * 0x9E3779B97F4A7C15u + k;
  return record;
}

}  // namespace

TEST_CASE("spsc_ring: two threads, mixed single and batch operations, nothing lost, doubled or torn") {
  constexpr std::uint64_t kCount = 200000;
  SpscRing<Record> ring(64);
  const std::uint64_t seed = fastgen::test::seed();
  std::thread producer([&] {
    std::mt19937_64 random(seed);
    std::vector<Record> batch;
    for (std::uint64_t next = 0; next < kCount;) {
      std::size_t pushed = 0;
      if (random() % 2) {
        pushed = ring.push(make_record(next)) ? 1 : 0;
      } else {
        batch.clear();
        const std::uint64_t wanted = std::min<std::uint64_t>(kCount - next, 1 + random() % 40);
        for (std::uint64_t i = 0; i < wanted; ++i) batch.push_back(make_record(next + i));
        const std::size_t room = ring.free_slots();
        pushed = ring.push_some(batch);
        if (pushed < std::min<std::size_t>(room, batch.size())) std::abort();  // free_slots is a promise
      }
      next += pushed;
      if (pushed == 0) std::this_thread::yield();
    }
  });
  std::mt19937_64 random(seed + 1);
  std::vector<Record> out(48);
  std::uint64_t wrong = 0;
  for (std::uint64_t next = 0; next < kCount;) {
    std::size_t popped = 0;
    if (random() % 2) {
      popped = ring.pop(out[0]) ? 1 : 0;
    } else {
      popped = ring.pop_some(std::span(out).first(random() % out.size()));
    }
    for (std::size_t i = 0; i < popped; ++i) wrong += out[i].words != make_record(next++).words;
    if (popped == 0) std::this_thread::yield();
  }
  producer.join();
  CHECK(wrong == 0);
  CHECK(ring.size() == 0);
}
