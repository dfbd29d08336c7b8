#include "base/log.h"

#include <unistd.h>

#include <cstdio>
#include <regex>
#include <sstream>
#include <thread>
#include <vector>

#include "fastgen/error.h"
#include "support/support.h"

using namespace fastgen;

namespace {

// What `body` writes to the standard error stream.
template <typename Body>
std::string captured_stderr(Body body) {
  test::TempDir dir;
  const std::filesystem::path path = dir.path() / "stderr";
  std::fflush(stderr);
  const int saved = dup(STDERR_FILENO);
  std::FILE* file = std::fopen(path.c_str(), "w");
  REQUIRE(file != nullptr);
  dup2(fileno(file), STDERR_FILENO);
  body();
  std::fflush(stderr);
  dup2(saved, STDERR_FILENO);
  std::fclose(file);
  close(saved);
  return test::read_file(path);
}

}  // namespace

TEST_CASE("log: one line of one format, foreign line breaks do not make another") {
  const std::string text = captured_stderr([] { log_warn("model \"{}\" is {}", "a\nb", 7); });
  INFO(text);
  CHECK(std::regex_match(
      text, std::regex("\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d\\.\\d{3} warn  model \"a b\" is 7\n")));
}

TEST_CASE("log: the level decides what is written") {
  const std::string text = captured_stderr([] {
    log_debug("one");
    set_log_level(parse_log_level("debug"));
    log_debug("two");
    set_log_level(parse_log_level("error"));
    log_warn("three");
    log_error("four");
    set_log_level(parse_log_level("off"));
    log_error("five");
    set_log_level(LogLevel::kInfo);
    log_info("six");
  });
  for (const char* there : {"two", "four", "six"}) CHECK(text.find(there) != std::string::npos);
  for (const char* absent : {"one", "three", "five"}) CHECK(text.find(absent) == std::string::npos);
}

TEST_CASE("log: an unknown level names the flag and the choices") {
  CHECK_THROWS_WITH_AS(parse_log_level("loud"),
                       "--log-level: \"loud\" is none of debug, info, warn, error, off", Error);
}

TEST_CASE("log: lines of several threads stay whole") {
  const std::string text = captured_stderr([] {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([t] {
        for (int i = 0; i < 200; ++i) log_info("thread {} says {} end", t, i);
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  std::istringstream lines(text);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) REQUIRE(line.ends_with(" end"));
  CHECK(count == 800);
}
