// Zero-filled memory whose pages are all there: made by many threads, since one takes seconds for tens of gigabytes.
#pragma once

#include <cstddef>

namespace fastgen {

class TouchedMemory {
 public:
  // Begins on a page; in huge pages where the system gives them. Of num_threads, at least 1, not more are used than there is work for.
  // Throws Error if there are no such addresses left. The system may end the process where it has promised more memory than it has, so ask
  // for what is free.
  TouchedMemory(std::size_t bytes, int num_threads);
  ~TouchedMemory();
  TouchedMemory(const TouchedMemory&) = delete;
  TouchedMemory& operator=(const TouchedMemory&) = delete;

  char* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  const std::size_t bytes_;
  char* const data_;
};

}  // namespace fastgen
