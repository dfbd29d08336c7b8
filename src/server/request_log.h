// --log-requests: one JSON line per request, for people and programs that ask what was served and how fast.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
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

// Thread-safe: each line goes out in one write.
class RequestLog {
 public:
  // A file to append to, "-" for stdout, empty for none. Throws Error naming --log-requests.
  explicit RequestLog(const std::string& path);
  ~RequestLog();
  RequestLog(const RequestLog&) = delete;
  RequestLog& operator=(const RequestLog&) = delete;
  bool is_on() const { return fd_ >= 0; }
  void write(const RequestRecord& record, bool with_contents);

 private:
  int fd_ = -1;
};

}  // namespace fastgen::server
