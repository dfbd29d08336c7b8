#include "backend/cpu/thread_pool.h"

#include <chrono>
#include <system_error>

#include <fmt/format.h>

#include "base/check.h"
#include "fastgen/error.h"

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
  try {
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error& error) {
    const std::size_t num_given = workers_.size() + 1;
    stop();
    throw Error(fmt::format("--threads {}: the system gives no more than {}: {}", num_threads, num_given, error.code().message()));
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stopping_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(Job job, const void* context) {
  job_ = job;
  context_ = context;
  next_.store(0, std::memory_order_relaxed);
  inside_.store(0, std::memory_order_release);
  // Sequentially consistent, as the worker's sleepers_ and generation_: either we see it asleep or it sees the new job.
  generation_.fetch_add(1);
  if (sleepers_.load() > 0) generation_.notify_all();
  job(context, 0);
  inside_.fetch_add(kClosed, std::memory_order_acq_rel);
  if (spin([this] { return inside_.load(std::memory_order_acquire) == kClosed; })) return;
  for (std::int32_t now; (now = inside_.load(std::memory_order_acquire)) != kClosed;) inside_.wait(now);
}

// A worker that comes late may enter the next job, or the same one again: it claims what is left, perhaps nothing.
bool ThreadPool::enter() {
  std::int32_t now = inside_.load(std::memory_order_relaxed);
  while (now >= 0) {
    if (inside_.compare_exchange_weak(now, now + 1, std::memory_order_acquire, std::memory_order_relaxed)) return true;
  }
  return false;
}

void ThreadPool::leave() {
  if (inside_.fetch_sub(1, std::memory_order_acq_rel) - 1 == kClosed) inside_.notify_one();
}

void ThreadPool::work(int thread_idx) {
  std::uint32_t seen = 0;
  for (;;) {
    if (!spin([&] { return generation_.load(std::memory_order_acquire) != seen; })) {
      sleepers_.fetch_add(1);
      generation_.wait(seen);
      sleepers_.fetch_sub(1);
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stopping_.load()) return;
    if (!enter()) continue;
    job_(context_, thread_idx);
    leave();
  }
}

}  // namespace fastgen
