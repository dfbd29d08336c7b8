// An eventfd: lets any thread wake one that sleeps in wait(), poll, epoll or Asio.
//
// Use: the sender publishes its work (a ring), then calls signal(). The sleeper calls drain(), then takes all
// work there is, then sleeps; so work published between the two is taken now or wakes it again.
#pragma once

namespace fastgen {

class Wake {
 public:
  Wake();  // throws Error if the process is out of descriptors
  ~Wake();
  Wake(const Wake&) = delete;
  Wake& operator=(const Wake&) = delete;

  void signal();  // any thread, also from a signal handler; never blocks
  void drain();   // forgets all signals so far
  // Sleeps until a signal that is not drained, or until the time is over; < 0: no limit. True: a signal is
  // there.
  bool wait(int timeout_ms);
  int fd() const { return fd_; }  // readable while a signal is there; non-blocking, closed on exec

 private:
  int fd_ = -1;
};

}  // namespace fastgen
