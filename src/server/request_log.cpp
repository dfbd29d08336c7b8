#include "server/request_log.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <chrono>
#include <ctime>
#include <system_error>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json_writer.h"
#include "base/spans.h"
#include "fastgen/error.h"

namespace fastgen::server {

namespace {

std::string utc_time(std::int64_t unix_ms) {
  const std::time_t seconds = unix_ms / 1000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour,
                     parts.tm_min, parts.tm_sec, unix_ms % 1000);
}

constexpr std::size_t kMaxWaitingBytes = 8 << 20;
constexpr int kLookMs = 100;  // how often a blocked writer looks whether it should stop

bool is_regular(int fd) {
  struct stat about{};
  return ::fstat(fd, &about) == 0 && S_ISREG(about.st_mode);
}

// Where lines go. Opened anew where that can be, so that not blocking is ours alone: the flag belongs to what others write to as well.
int open_stdout() {
  const int fd = is_regular(STDOUT_FILENO) ? -1 : ::open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  return fd >= 0 ? fd : ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
}

// A FIFO that nobody reads is an error (ENXIO), where a blocking open would wait for ever.
int open_log(const std::string& path) {
  return path == "-" ? open_stdout() : ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC, 0640);
}

}  // namespace

void append_request_line(std::string& out, const RequestRecord& record, std::int64_t unix_ms, bool with_contents) {
  JsonWriter json(out);
  json.begin_object().field("time", utc_time(unix_ms)).field("request_id", record.request_id);
  if (!record.answer_id.empty()) json.field("id", record.answer_id);
  json.field("client", record.address).field("route", record.route).field("status", record.status);
  if (!record.error.empty()) json.field("error", record.error);
  json.field("stream", record.is_stream).field("prompt_tokens", record.prompt_tokens);
  json.field("completion_tokens", record.completion_tokens).field("cached_tokens", record.cached_tokens);
  json.key("finish_reasons").begin_array();
  for (std::string_view reason : record.finish_reasons) json.value(reason);
  json.end_array();
  const auto time = [&](std::string_view name, std::uint64_t us) {
    if (us >= record.start_us && us > 0) json.field(name, static_cast<double>((us - record.start_us) / 10) / 100);
  };
  time("submit_ms", record.submit_us);
  time("begin_ms", record.begin_us);
  time("first_token_ms", record.first_us);
  time("end_ms", record.end_us);
  if (with_contents) {
    json.field("request", record.request_body).key("texts").begin_array();
    for (const std::string& text : record.texts) json.value(text);
    json.end_array();
  }
  json.end_object();
  out += '\n';
}

RequestLog::RequestLog(const std::string& path) {
  if (path.empty()) return;
  fd_ = open_log(path);
  if (fd_ < 0) {
    const int error = errno;
    const char* hint = error == ENXIO ? " (a FIFO needs a reader first)" : "";
    throw Error(fmt::format("--log-requests {}: {}{}", path, std::generic_category().message(error), hint));
  }
  is_file_ = is_regular(fd_);
  thread_ = std::thread([this] {
    name_thread("request log");
    run();
  });
}

RequestLog::~RequestLog() {
  if (!is_on()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  news_.notify_one();
  thread_.join();
  ::close(fd_);
}

void RequestLog::write(const RequestRecord& record, bool with_contents) {
  if (!is_on()) return;
  using std::chrono::milliseconds;
  const auto now = std::chrono::duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch());
  std::string line;
  append_request_line(line, record, now.count(), with_contents);
  {
    const std::lock_guard lock(mutex_);
    if (waiting_bytes_ + line.size() > kMaxWaitingBytes) {
      num_lost_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    waiting_bytes_ += line.size();
    lines_.push_back(std::move(line));
  }
  news_.notify_one();
}

void RequestLog::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    news_.wait(lock, [this] { return stopping_ || !lines_.empty(); });
    if (lines_.empty()) return;
    const std::string line = std::move(lines_.front());
    lines_.pop_front();
    lock.unlock();
    const bool written = put(line);
    lock.lock();
    waiting_bytes_ -= line.size();
    if (written) continue;
    num_lost_.fetch_add(1, std::memory_order_relaxed);
    if (stopping_) return;  // the others would wait in vain too
  }
}

// False: it cannot be written (a full disk, a reader that has gone), or we stop and it would block.
bool RequestLog::put(std::string_view line) const {
  const std::size_t most = is_file_ ? line.size() : PIPE_BUF;  // a pipe that is ready takes so much without blocking
  while (!line.empty()) {
    if (!wait_writable()) return false;
    const ssize_t count = ::write(fd_, line.data(), std::min(most, line.size()));
    if (count < 0 && errno != EINTR && errno != EAGAIN) return false;
    line.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  }
  return true;
}

bool RequestLog::wait_writable() const {
  while (true) {
    pollfd wanted{fd_, POLLOUT, 0};
    if (::poll(&wanted, 1, kLookMs) > 0) return true;  // also on an error, which the write will tell
    if (stopping_) return false;
  }
}

}  // namespace fastgen::server
