#include "progress_bar.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/clock.h"

namespace fastgen {

namespace {

constexpr std::uint64_t kDrawEveryUs = 100'000;

std::string minutes_seconds(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::min(seconds, 359'999.0));
  return fmt::format("{:02}:{:02}", whole / 60, whole % 60);
}

int terminal_columns(std::FILE* out) {
  winsize size{};
  return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string short_count(double value) {
  constexpr std::array kUnits = {"", "k", "M", "G", "T", "P"};
  std::size_t unit = 0;
  // 999.5 would be printed as 1000.
  while (value >= 999.5 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}{}", value, decimals, kUnits[unit]);
}

std::string progress_line(std::string_view label, std::uint64_t done_bytes, std::uint64_t total_bytes, double elapsed_s,
                          int columns) {
  const double share = std::min(1.0, double(done_bytes) / double(total_bytes));
  const double rate = elapsed_s > 0 ? double(done_bytes) / elapsed_s : 0;
  const std::string left_s = rate > 0 ? minutes_seconds((1 - share) * double(total_bytes) / rate) : "??:??";
  const std::string head = fmt::format("{}: {:>3}%|", label, int(share * 100));
  const std::string tail =
      fmt::format("| {}/{} [{}<{}, {}B/s]", short_count(double(done_bytes)), short_count(double(total_bytes)),
                  minutes_seconds(elapsed_s), left_s, short_count(rate));
  const int room = columns - int(head.size()) - int(tail.size());
  const int width = std::clamp(room, 4, 40);
  const int filled = int(share * width);
  return head + std::string(std::size_t(filled), '#') + std::string(std::size_t(width - filled), ' ') + tail;
}

ProgressBar::ProgressBar(std::string label, std::FILE* out)
    : label_(std::move(label)), out_(out), is_terminal_(isatty(fileno(out)) != 0), start_us_(now_us()) {}

void ProgressBar::update(std::uint64_t done_bytes, std::uint64_t total_bytes) {
  const std::lock_guard lock(mutex_);
  if (total_bytes == 0 || finished_) return;
  finished_ = done_bytes >= total_bytes;
  if (!finished_ && (!is_terminal_ || now_us() - drawn_us_ < kDrawEveryUs)) return;
  draw(done_bytes, total_bytes);
}

void ProgressBar::draw(std::uint64_t done_bytes, std::uint64_t total_bytes) {
  drawn_us_ = now_us();
  // One column stays free: a full line would wrap.
  const int columns = is_terminal_ ? terminal_columns(out_) - 1 : 80;
  const std::string line =
      progress_line(label_, done_bytes, total_bytes, double(drawn_us_ - start_us_) / 1e6, columns);
  fmt::print(out_, "{}{}{}", is_terminal_ ? "\r\033[K" : "", line, finished_ ? "\n" : "");
  std::fflush(out_);
}

}  // namespace fastgen
