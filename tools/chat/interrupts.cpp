#include "chat/interrupts.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>

#include "base/check.h"

namespace fastgen {

namespace {

std::atomic<int> g_fd = -1;  // written by the one Interrupts, read by the handler

void on_interrupt(int) {
  const int saved = errno;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(g_fd, &one, sizeof(one));
  errno = saved;
}

}  // namespace

Interrupts::Interrupts() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  FG_CHECK(fd_ >= 0, errno);
  g_fd = fd_;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

Interrupts::~Interrupts() {
  std::signal(SIGINT, SIG_DFL);
  g_fd = -1;
  ::close(fd_);
}

bool Interrupts::take() {
  std::uint64_t count = 0;
  return ::read(fd_, &count, sizeof(count)) == sizeof(count);
}

}  // namespace fastgen
