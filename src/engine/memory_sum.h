// What an engine takes of the backend's memory, term by term: checked before anything is loaded, and written out when it does not fit.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fastgen {

class MemorySum {
 public:
  void add(std::string_view what, std::int64_t bytes);
  std::int64_t bytes() const { return bytes_; }
  // "weights 14.48 GB + activations 0.92 GB = 15.40 GB"
  std::string text() const;
  // Throws Error if it is more than there is: "--gpu-gb: not enough GPU memory: weights ... = 15.40 GB, but 12.00 GB are free".
  void check_fits(std::int64_t free_bytes, std::string_view what_is_short) const;

 private:
  std::int64_t bytes_ = 0;
  std::string terms_;
};

}  // namespace fastgen
