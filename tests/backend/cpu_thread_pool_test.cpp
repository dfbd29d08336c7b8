#include "backend/cpu/thread_pool.h"

#include <chrono>
#include <filesystem>

#include "support/support.h"

namespace fastgen::test {
namespace {

TEST_CASE("thread pool: every item once, whatever the grain") {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (std::int64_t count : {0, 1, 7, 100, 1000}) {
      for (std::int64_t grain : {1, 3, 64}) {
        std::vector<std::atomic<int>> done(static_cast<std::size_t>(count));
        pool.parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end, int thread) {
          CHECK(thread < threads);
          for (std::int64_t i = begin; i < end; ++i) ++done[static_cast<std::size_t>(i)];
        });
        for (const auto& times : done) CHECK(times == 1);
      }
    }
  }
}

TEST_CASE("thread pool: a barrier, job after job, with sleeps between") {
  ThreadPool pool(3);
  std::int64_t sums[3] = {};
  for (int job = 0; job < 3000; ++job) {
    pool.run([&](int thread) { sums[thread] += job; });
    CHECK(sums[0] == sums[1]);  // plain reads: run() has published what the workers wrote
    CHECK(sums[0] == sums[2]);
    if (job % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // workers fall asleep
  }
  CHECK(sums[0] == 2999 * 3000 / 2);
}

}  // namespace
}  // namespace fastgen::test
