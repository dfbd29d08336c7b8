// The compute threads of the CPU backend: the calling thread and num_threads - 1 workers share the items of one op.
//
// Invariants: 1. parallel_for() returns when every item is done. 2. It waits only for workers that have begun: one that
// the kernel does not schedule in time (other load on the machine) is left out and the caller does its share; waiting for all of
// them at each of an op's barriers made a step of 10 ms take a second on a loaded machine. 3. Between jobs a worker spins at most
// kSpinUs, then sleeps in the kernel; so does the caller while it waits for the last worker.
//
// parallel_for() is called from one thread at a time, never from inside a body.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <thread>
#include <vector>

namespace fastgen {

class ThreadPool {
 public:
  static constexpr int kSpinUs = 20;

  explicit ThreadPool(int num_threads);  // >= 1; throws Error if the system gives no more threads
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // body(begin, end, thread_idx) over [0, count) in pieces of `grain` that threads claim one by one; thread_idx 0 is
  // the caller, no index runs twice at a time.
  template <typename Body>
  void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
    if (num_threads_ == 1 || count <= grain) {
      if (count > 0) body(std::int64_t{0}, count, 0);
      return;
    }
    const auto claim = [&](int thread_idx) {
      for (;;) {
        const std::int64_t begin = next_.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= count) return;
        body(begin, begin + grain < count ? begin + grain : count, thread_idx);
      }
    };
    run([](const void* context, int thread_idx) { (*static_cast<const decltype(claim)*>(context))(thread_idx); },
        &claim);
  }

 private:
  using Job = void (*)(const void* context, int thread_idx);
  void run(Job job, const void* context);
  void work(int thread_idx);
  void stop();
  bool enter();
  void leave();

  // inside_ counts the workers in the job; with kClosed added, no more may enter.
  static constexpr std::int32_t kClosed = std::numeric_limits<std::int32_t>::min() / 2;

  const int num_threads_;
  // Written by the caller while the job is closed and nobody is inside.
  Job job_ = nullptr;
  const void* context_ = nullptr;

  alignas(64) std::atomic<std::uint32_t> generation_{0};  // raised for each job; workers sleep on it
  std::atomic<int> sleepers_{0};                          // workers that sleep or are about to
  std::atomic<bool> stopping_{false};
  // Its opening publishes job_, context_ and next_ to enter(); a worker's leaving publishes its results to the caller.
  alignas(64) std::atomic<std::int32_t> inside_{kClosed};
  alignas(64) std::atomic<std::int64_t> next_{0};  // the first item that nobody has claimed
  std::vector<std::thread> workers_;
};

}  // namespace fastgen
