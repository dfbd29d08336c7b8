// The compute threads of the CPU backend: the calling thread and num_threads - 1 workers run parts of one op.
//
// run() is a barrier: it returns when every thread has returned from the body. Between jobs a worker spins at most
// kSpinUs, then sleeps in the kernel; so does the caller while it waits for the last worker. run() and parallel_for()
// are called from one thread at a time, never from inside a body.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace fastgen {

class ThreadPool {
 public:
  static constexpr int kSpinUs = 20;

  explicit ThreadPool(int num_threads);  // >= 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // body(thread_idx) once on every thread; thread_idx 0 is the caller.
  template <typename Body>
  void run(const Body& body) {
    run_erased([](const void* context, int thread_idx) { (*static_cast<const Body*>(context))(thread_idx); }, &body);
  }

  // body(begin, end, thread_idx) over [0, count) in pieces of `grain` that threads claim one by one.
  template <typename Body>
  void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
    if (num_threads_ == 1 || count <= grain) {
      if (count > 0) body(std::int64_t{0}, count, 0);
      return;
    }
    next_.store(0, std::memory_order_relaxed);
    run([&](int thread_idx) {
      for (;;) {
        const std::int64_t begin = next_.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= count) return;
        body(begin, begin + grain < count ? begin + grain : count, thread_idx);
      }
    });
  }

 private:
  using ErasedBody = void (*)(const void* context, int thread_idx);
  void run_erased(ErasedBody body, const void* context);
  void work(int thread_idx);

  const int num_threads_;
  // Written by the caller before generation_ is raised, read by workers after they see it.
  ErasedBody body_ = nullptr;
  const void* context_ = nullptr;
  bool stopping_ = false;

  alignas(64) std::atomic<std::uint32_t> generation_{0};  // publishes body_, context_, stopping_ to workers
  std::atomic<int> sleepers_{0};                          // workers that sleep or are about to
  alignas(64) std::atomic<std::uint32_t> running_{0};     // workers still in the body; 0 publishes their results
  alignas(64) std::atomic<std::int64_t> next_{0};         // first item of parallel_for that nobody has claimed
  std::vector<std::thread> workers_;
};

}  // namespace fastgen
