#include "backend/cpu/thread_pool.h"

#include <chrono>
#include <fstream>
#include <string>

#include <sys/resource.h>
#include <unistd.h>

#include "fastgen/error.h"
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

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which need address space of their own
TEST_CASE("thread pool: a system without threads to give is an Error that names the flag") {
  std::size_t num_pages = 0;
  std::ifstream("/proc/self/statm") >> num_pages;
  rlimit before{};
  getrlimit(RLIMIT_AS, &before);
  rlimit tight = before;
  tight.rlim_cur = num_pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) + (std::size_t{100} << 20);  // a few stacks
  REQUIRE(setrlimit(RLIMIT_AS, &tight) == 0);
  std::string message;
  try {
    ThreadPool pool(4000);
  } catch (const Error& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_AS, &before);
  CHECK(message.starts_with("--threads 4000: "));
}
#endif

TEST_CASE("thread pool: a barrier, job after job, with sleeps between") {
  ThreadPool pool(3);
  std::vector<std::int64_t> sums(7);
  std::vector<int> inside(3);  // an index never runs twice at a time
  for (int job = 0; job < 3000; ++job) {
    pool.parallel_for(7, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
      const bool alone = ++inside[static_cast<std::size_t>(thread)] == 1;
      for (std::int64_t i = begin; i < end; ++i) sums[static_cast<std::size_t>(i)] += alone ? job : -1;
      --inside[static_cast<std::size_t>(thread)];
    });
    // Plain reads: parallel_for has published what the workers wrote.
    for (std::int64_t sum : sums) REQUIRE(sum == std::int64_t{job} * (job + 1) / 2);
    if (job % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // workers fall asleep
  }
}

TEST_CASE("thread pool: the workers take part") {
  ThreadPool pool(2);
  std::atomic<bool> helped = false;
  for (int job = 0; job < 200 && !helped; ++job) {
    pool.parallel_for(20, 1, [&](std::int64_t, std::int64_t, int thread) {
      if (thread == 1) helped = true;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    });
  }
  CHECK(helped);
}

}  // namespace
}  // namespace fastgen::test
