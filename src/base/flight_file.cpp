#include "base/flight_file.h"

#include <csignal>
#include <fstream>

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/step_trace.h"
#include "base/trace.h"

namespace fastgen {

namespace {

constexpr std::uint64_t kRecentMs = 10'000;
constexpr unsigned kCrashSeconds = 3;  // that writing may take

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kIsSanitized = true;
#else
constexpr bool kIsSanitized = false;
#endif

// A crashing process cannot be trusted to write, so its copy does: a child has the memory as it is and locks of its own, and if it
// crashes or hangs too, the alarm ends it.
void on_crash(int signal) {
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGALRM, SIG_DFL);
    for (int fatal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(fatal, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    alarm(kCrashSeconds);
    write_flight_file("crash");
    _exit(0);
  }
  if (child > 0) waitpid(child, nullptr, 0);
  std::signal(signal, SIG_DFL);
  raise(signal);
}

}  // namespace

std::string write_flight_file(const char* reason) {
  if constexpr (!kHasProfiler) return "";
  const std::string file = trace_file_name(reason);
  std::ofstream out(file);
  out << recent_trace(kRecentMs) << '\n';
  if (!out.flush()) {
    log_error("the flight recorder's {} cannot be written", file);
    return "";
  }
  log_warn("{}: what the threads did last is in {}", reason, file);
  return file;
}

void write_flight_file_on_crash() {
  if (kIsSanitized) return;
  struct sigaction action {};
  action.sa_handler = on_crash;
  action.sa_flags = SA_RESETHAND | SA_NODEFER;
  for (int fatal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigaction(fatal, &action, nullptr);
}

}  // namespace fastgen
