// A progress bar for bytes, on one line that changes:
//   loading: 100%|##########| 14.5G/14.5G [00:00<00:00, 75.9GB/s]
#pragma once

#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>
#include <string_view>

namespace fastgen {

// Three significant digits and a unit of 1000: "999", "1.00k", "14.5G".
std::string short_count(double value);
// The line, at most `columns` wide if that leaves a bar of at least 4. total_bytes > 0.
std::string progress_line(std::string_view label, std::uint64_t done_bytes, std::uint64_t total_bytes, double elapsed_s,
                          int columns);

// Draws on a terminal ten times a second; elsewhere only the finished line is written. Any thread may update.
class ProgressBar {
 public:
  ProgressBar(std::string label, std::FILE* out);
  void update(std::uint64_t done_bytes, std::uint64_t total_bytes);

 private:
  void draw(std::uint64_t done_bytes, std::uint64_t total_bytes);

  const std::string label_;
  std::FILE* const out_;
  const bool is_terminal_;
  const std::uint64_t start_us_;
  std::mutex mutex_;  // of all below
  std::uint64_t drawn_us_ = 0;
  bool finished_ = false;
};

}  // namespace fastgen
