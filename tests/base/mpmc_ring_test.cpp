#include "base/mpmc_ring.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "support/support.h"

using fastgen::MpmcRing;

TEST_CASE("mpmc_ring: first in, first out; full and empty; many rounds") {
  MpmcRing<int> ring(3);
  CHECK(ring.capacity() == 4);
  for (int round = 0; round < 10; ++round) {
    int value = -1;
    CHECK_FALSE(ring.pop(value));
    for (int i = 0; i < 4; ++i) CHECK(ring.push(round * 4 + i));
    CHECK_FALSE(ring.push(99));
    for (int i = 0; i < 4; ++i) {
      REQUIRE(ring.pop(value));
      CHECK(value == round * 4 + i);
    }
  }
}

TEST_CASE("mpmc_ring: a refused push leaves a move-only value with its owner") {
  MpmcRing<std::unique_ptr<int>> ring(2);
  CHECK(ring.push(std::make_unique<int>(1)));
  CHECK(ring.push(std::make_unique<int>(2)));
  auto third = std::make_unique<int>(3);
  CHECK_FALSE(ring.push(std::move(third)));
  CHECK(third != nullptr);
}

TEST_CASE("mpmc_ring: several producers and consumers: each element once, each producer's order kept") {
  constexpr std::uint64_t kProducers = 3, kConsumers = 3, kEach = 40000;
  struct Item {
    std::uint64_t producer = 0, number = 0, check = 0;
  };
  MpmcRing<Item> ring(32);
  std::atomic<std::uint64_t> num_popped{0};
  std::vector<std::vector<Item>> taken(kConsumers);
  std::vector<std::thread> threads;
  for (std::uint64_t p = 0; p < kProducers; ++p) {
    threads.emplace_back([&, p] {
      for (std::uint64_t i = 0; i < kEach;) {
        if (ring.push(Item{p, i, p * 1000003 + i * 7})) {
          ++i;
        } else {
          std::this_thread::yield();
        }
      }
    });
  }
  for (std::uint64_t c = 0; c < kConsumers; ++c) {
    threads.emplace_back([&, c] {
      Item item;
      while (num_popped.load() < kProducers * kEach) {
        if (ring.pop(item)) {
          taken[c].push_back(item);
          num_popped.fetch_add(1);
        } else {
          std::this_thread::yield();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();

  std::vector<std::vector<int>> seen(kProducers, std::vector<int>(kEach, 0));
  std::uint64_t out_of_order = 0, torn = 0;
  for (const std::vector<Item>& items : taken) {
    std::vector<std::uint64_t> least(kProducers, 0);
    for (const Item& item : items) {
      torn += item.check != item.producer * 1000003 + item.number * 7;
      out_of_order += item.number < least[item.producer];
      least[item.producer] = item.number + 1;
      ++seen[item.producer][item.number];
    }
  }
  std::uint64_t not_once = 0;
  for (const std::vector<int>& counts : seen) {
    for (int count : counts) not_once += count != 1;
  }
  CHECK(torn == 0);
  CHECK(out_of_order == 0);
  CHECK(not_once == 0);
}
