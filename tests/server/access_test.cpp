#include "server/access.h"

#include "server/metrics.h"
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

}  // namespace fastgen::server
