#include "server/access.h"

#include "server/metrics.h"
#include "server/request_log.h"
#include "support/support.h"

namespace fastgen::server {

TEST_CASE("texts are equal only if they are the same") {
  CHECK(equal_in_constant_time("", ""));
  CHECK(equal_in_constant_time("secret", "secret"));
  for (const char* other : {"", "s", "secre", "secrets", "Secret", "secretsecret"}) {
    CHECK_FALSE(equal_in_constant_time(other, "secret"));
    CHECK_FALSE(equal_in_constant_time("secret", other));
  }
}

TEST_CASE("addresses have their most, and get places back") {
  AddressCounts counts(2), unlimited(0);
  CHECK(counts.enter("a"));
  CHECK(counts.enter("a"));
  CHECK_FALSE(counts.enter("a"));
  CHECK(counts.enter("b"));
  counts.leave("a");
  CHECK(counts.enter("a"));
  counts.leave("nobody");
  for (int i = 0; i < 100; ++i) CHECK(unlimited.enter("a"));
}

TEST_CASE("a histogram's bounds are upper ones, inclusive") {
  Histogram histogram{1, 2, 5};
  for (double value : {0.5, 1.0, 1.5, 5.0, 6.0, 7.0}) histogram.observe(value);
  CHECK(histogram.count(0) == 2);
  CHECK(histogram.count(1) == 1);
  CHECK(histogram.count(2) == 1);
  CHECK(histogram.count(3) == 2);
  CHECK(histogram.sum() == 21);
}

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

}  // namespace fastgen::server
