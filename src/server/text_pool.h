// A few threads for text work that would hold up an io thread: long prompts.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fastgen::server {

// The queue is bounded by the tickets of those who post. All calls are thread-safe but stop().
class TextPool {
 public:
  explicit TextPool(int num_threads);
  ~TextPool();
  // Jobs do not throw. Without threads the job runs at once, in the caller.
  void post(std::function<void()> job);
  // Waits for the running jobs and drops the others.
  void stop();

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace fastgen::server
