#include "server/request_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "fastgen/error.h"
#include "support/support.h"

namespace fastgen::server {

TEST_CASE("a request's line holds what happened, and contents only if asked") {
  RequestRecord record;
  record.request_id = "r\"1";
  record.address = "::1";
  record.route = "/v1/completions";
  record.status = 200;
  record.prompt_tokens = 3;
  record.finish_reasons = {"stop"};
  record.start_us = 1'000'000;
  record.first_us = 1'012'345;
  record.end_us = 1'020'000;
  record.request_body = "private";
  record.texts = {"secret"};
  std::string line;
  append_request_line(line, record, 1'769'860'800'123, false);
  CHECK(line.starts_with(R"({"time":"2026-01-31T12:00:00.123Z","request_id":"r\"1","client":"::1",)"));
  CHECK(line.find(R"("first_token_ms":12.34,"end_ms":20)") != std::string::npos);
  CHECK(line.find("submit_ms") == std::string::npos);
  CHECK(line.find("private") == std::string::npos);
  CHECK(line.ends_with("}\n"));
  append_request_line(line, record, 0, true);
  CHECK(line.find(R"("request":"private","texts":["secret"])") != std::string::npos);
}

TEST_CASE("lines of several threads are whole, and all there at the end") {
  test::TempDir dir;
  const std::string path = dir.path() / "log";
  constexpr int kThreads = 3, kLines = 300;
  {
    RequestLog log(path);
    std::vector<std::thread> writers;
    for (int t = 0; t < kThreads; ++t)
      writers.emplace_back([&log] {
        RequestRecord record;
        record.texts = {std::string(10'000, 'x')};  // more than a pipe takes at once
        for (int i = 0; i < kLines; ++i) log.write(record, true);
      });
    for (std::thread& writer : writers) writer.join();
    // Up to 8 MB wait, so some of these nine are lost where the disk is slow.
    CHECK(log.num_lost() < kThreads * kLines);
  }
  const std::string text = test::read_file(path);
  std::size_t num_lines = 0;
  for (std::size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1, ++num_lines) {
    CHECK(text.compare(begin, 8, R"({"time":)") == 0);
    CHECK(text[end - 1] == '}');
  }
  CHECK(num_lines > 0);
  CHECK(text.ends_with("}\n"));
}

TEST_CASE("a reader that sleeps holds up neither writers nor the end") {
  test::TempDir dir;
  const std::string path = dir.path() / "fifo";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK_THROWS_WITH_AS(RequestLog{path}, doctest::Contains("--log-requests"), Error);  // nobody reads it
  const int reader = ::open(path.c_str(), O_RDONLY | O_NONBLOCK);
  REQUIRE(reader >= 0);
  std::chrono::steady_clock::time_point end_begins;
  {
    RequestLog log(path);
    RequestRecord record;
    record.texts = {std::string(100'000, 'x')};
    for (int i = 0; i < 200; ++i) log.write(record, true);  // 20 MB: 8 may wait
    CHECK(log.num_lost() >= 100);
    CHECK(log.num_lost() < 130);
    end_begins = std::chrono::steady_clock::now();
  }
  CHECK(std::chrono::steady_clock::now() - end_begins < std::chrono::seconds(3));  // 80 lines wait, and are not waited for one by one
  ::close(reader);
}

}  // namespace fastgen::server
