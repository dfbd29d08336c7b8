#include "server/request_log.h"

#include <cerrno>
#include <chrono>
#include <ctime>
#include <system_error>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/json_writer.h"
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
  fd_ = path == "-" ? ::dup(STDOUT_FILENO) : ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
  if (fd_ < 0) throw Error(fmt::format("--log-requests {}: {}", path, std::generic_category().message(errno)));
}

RequestLog::~RequestLog() {
  if (fd_ >= 0) ::close(fd_);
}

void RequestLog::write(const RequestRecord& record, bool with_contents) {
  if (!is_on()) return;
  using std::chrono::milliseconds;
  const auto now = std::chrono::duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch());
  std::string line;
  append_request_line(line, record, now.count(), with_contents);
  // A log that cannot be written (a full disk) must not hold up answers: the line is lost.
  [[maybe_unused]] const auto written = ::write(fd_, line.data(), line.size());
}

}  // namespace fastgen::server
