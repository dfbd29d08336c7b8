#include "base/flight_file.h"

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/spans.h"
#include "support/support.h"

namespace fastgen {
namespace {

TEST_CASE("the last ten seconds go into a file that says why") {
  const test::TempDir folder;
  setenv("FG_PROFILE_DIR", folder.path().c_str(), 1);
  { const SpanScope span(SpanKind::kTokenize); }
  const std::string file = write_flight_file("stall");
  CHECK(file.find("stall") != std::string::npos);
  CHECK(test::read_file(file).find("\"tokenize\"") != std::string::npos);
  setenv("FG_PROFILE_DIR", (folder.path() / "none").c_str(), 1);
  CHECK(write_flight_file("stall").empty());
  unsetenv("FG_PROFILE_DIR");
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
std::vector<std::filesystem::path> files_of(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) files.push_back(entry.path());
  return files;
}

// The child crashes; what it was doing is in the file, and it still ends by its signal.
int crash_in_child(const std::filesystem::path& folder, void (*crash)()) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("FG_PROFILE_DIR", folder.c_str(), 1);
    for (int fatal : {SIGABRT, SIGSEGV}) std::signal(fatal, SIG_DFL);  // doctest's own handlers
    write_flight_file_on_crash();
    const SpanScope span(SpanKind::kPlan);
    crash();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

TEST_CASE("a crash leaves a file and ends as it would have") {
  const struct {
    void (*crash)();
    int signal;
  } cases[] = {{[] { FG_CHECK(1 == 2, 3); }, SIGABRT}, {[] { raise(SIGSEGV); }, SIGSEGV}};
  for (const auto& one : cases) {
    const test::TempDir folder;
    CHECK(crash_in_child(folder.path(), one.crash) == one.signal);
    const auto files = files_of(folder.path());
    REQUIRE(files.size() == 1);
    CHECK(files[0].string().find("crash") != std::string::npos);
    CHECK(test::read_file(files[0]).find("\"plan\"") != std::string::npos);
  }
}
#endif

}  // namespace
}  // namespace fastgen
