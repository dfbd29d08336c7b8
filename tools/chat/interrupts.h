// Ctrl-C as something to wait for: a SIGINT makes a descriptor readable. A flag alone would be missed by a thread that
// looks at it just before it goes to sleep.
#pragma once

namespace fastgen {

class Interrupts {
 public:
  Interrupts();  // takes SIGINT over, for the rest of the process; one object at a time
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  int fd() const { return fd_; }
  // Whether Ctrl-C was pressed since the last call.
  bool take();

 private:
  int fd_;
};

}  // namespace fastgen
