#include "backend/cpu/thread_pool.h"

#include <chrono>

#include "base/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastgen {

namespace {

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Spins until done() or kSpinUs have passed; the last value of done().
template <typename Done>
bool spin(const Done& done) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::microseconds(ThreadPool::kSpinUs);
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      pause();
    }
  } while (Clock::now() < deadline);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads) {
  FG_CHECK(num_threads >= 1, num_threads);
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_erased(ErasedBody body, const void* context) {
  if (num_threads_ == 1) return body(context, 0);
  body_ = body;
  context_ = context;
  running_.store(static_cast<std::uint32_t>(num_threads_ - 1), std::memory_order_relaxed);
  // Sequentially consistent, as the worker's sleepers_ and generation_: either we see it asleep or it sees the new job.
  generation_.fetch_add(1);
  if (sleepers_.load() > 0) generation_.notify_all();
  body(context, 0);
  if (spin([this] { return running_.load(std::memory_order_acquire) == 0; })) return;
  for (std::uint32_t left; (left = running_.load(std::memory_order_acquire)) != 0;) running_.wait(left);
}

void ThreadPool::work(int thread_idx) {
  std::uint32_t seen = 0;
  for (;;) {
    if (!spin([&] { return generation_.load(std::memory_order_acquire) != seen; })) {
      sleepers_.fetch_add(1);
      generation_.wait(seen);
      sleepers_.fetch_sub(1);
    }
    ++seen;  // one job at a time: the caller waits for every worker before the next
    if (stopping_) return;
    body_(context_, thread_idx);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

}  // namespace fastgen
