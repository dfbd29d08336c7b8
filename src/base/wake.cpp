#include "base/wake.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "base/clock.h"
#include "fastgen/error.h"

namespace fastgen {

Wake::Wake() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (fd_ < 0) throw Error(fmt::format("eventfd: {}", std::strerror(errno)));
}

Wake::~Wake() { close(fd_); }

void Wake::signal() {
  const int saved_errno = errno;  // a signal handler must leave errno alone
  const std::uint64_t one = 1;
  // EAGAIN means that the counter is full: a signal is there.
  while (write(fd_, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
  errno = saved_errno;
}

void Wake::drain() {
  std::uint64_t count;
  while (read(fd_, &count, sizeof(count)) < 0 && errno == EINTR) {
  }
}

bool Wake::wait(int timeout_ms) {
  const std::uint64_t start_us = now_us();
  int left_ms = timeout_ms;
  while (true) {
    pollfd poll_fd{fd_, POLLIN, 0};
    const int ready = poll(&poll_fd, 1, left_ms);
    if (ready >= 0) return ready > 0;
    FG_CHECK(errno == EINTR, errno);
    if (timeout_ms < 0) continue;
    const std::uint64_t passed_ms = (now_us() - start_us) / 1000;
    if (passed_ms >= static_cast<std::uint64_t>(timeout_ms)) return false;
    left_ms = timeout_ms - static_cast<int>(passed_ms);
  }
}

}  // namespace fastgen
