// --log-requests: one JSON line per request, for people and programs that ask what was served and how fast.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace fastgen::server {

struct RequestRecord {
  std::string request_id, answer_id, address;
  std::string_view route;
  int status = 0;        // 499: the client went away before the answer was whole
  std::string error;     // its code, or its message where it has none
  bool is_stream = false;
  std::int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
  std::vector<std::string_view> finish_reasons;  // by choice
  std::uint64_t start_us = 0, submit_us = 0, begin_us = 0, first_us = 0, end_us = 0;  // steady clock; 0: did not come to that
  // With --log-contents.
  std::string request_body;
  std::vector<std::string> texts;
};

// Appends {"time":"2026-01-31T12:00:00.123Z", ...} and a line break. Times in milliseconds since the request's first byte.
void append_request_line(std::string& out, const RequestRecord& record, std::int64_t unix_ms, bool with_contents);

// Thread-safe. Lines go out on a thread of their own: a pipe whose reader sleeps, or a slow disk, must not hold up answers. At most
// 8 MB of them wait, what comes then is lost, and counted. A line goes into a file in one write.
class RequestLog {
 public:
  // A file to append to, "-" for stdout, empty for none. Throws Error naming --log-requests.
  explicit RequestLog(const std::string& path);
  // Lines that wait are written where that does not block.
  ~RequestLog();
  RequestLog(const RequestLog&) = delete;
  RequestLog& operator=(const RequestLog&) = delete;
  bool is_on() const { return fd_ >= 0; }
  void write(const RequestRecord& record, bool with_contents);
  std::uint64_t num_lost() const { return num_lost_.load(std::memory_order_relaxed); }

 private:
  void run();
  bool put(std::string_view line) const;
  bool wait_writable() const;

  int fd_ = -1;
  bool is_file_ = false;
  std::atomic<std::uint64_t> num_lost_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable news_;
  std::deque<std::string> lines_;   // with the mutex
  std::size_t waiting_bytes_ = 0;   // of these
  std::thread thread_;
};

}  // namespace fastgen::server
