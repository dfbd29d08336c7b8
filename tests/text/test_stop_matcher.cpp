#include "support/support.h"
#include "text/random_text.h"
#include "text/stop_matcher.h"

namespace fastgen {

using test::below;

TEST_CASE("stop matcher: the string that ends first wins, then the longest, in pieces of any size") {
  test::Rng rng(test::seed());
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(1 + below(rng, 4));
    for (auto& stop : stops) {
      for (std::size_t i = 1 + below(rng, 5); i > 0; --i) stop += static_cast<char>('a' + below(rng, 2));
    }
    std::string text;
    for (std::size_t i = below(rng, 20); i > 0; --i) text += static_cast<char>('a' + below(rng, 3));

    std::size_t want_end = std::string::npos, want_bytes = 0;
    for (const auto& stop : stops) {
      std::size_t at = text.find(stop);
      std::size_t end = at == std::string::npos ? at : at + stop.size();
      if (end < want_end || (end == want_end && end != std::string::npos && stop.size() > want_bytes)) {
        want_end = end, want_bytes = stop.size();
      }
    }

    StopMatcher matcher(stops);
    std::optional<StopMatcher::Match> match;
    std::size_t done = 0;
    while (done < text.size() && !match) {
      std::size_t bytes = 1 + below(rng, 4);
      match = matcher.read(std::string_view(text).substr(done, bytes));
      if (!match) done = std::min(text.size(), done + bytes);
    }
    REQUIRE(match.has_value() == (want_end != std::string::npos));
    if (!match) continue;
    REQUIRE(done + match->end == want_end);
    REQUIRE(stops[match->stop_idx].size() == want_bytes);
  }
}

TEST_CASE("stop matcher: open bytes are the longest end that begins a string") {
  StopMatcher matcher({"abab", "bb"});
  CHECK(matcher.num_open_bytes() == 0);
  CHECK(!matcher.read("xaba"));
  CHECK(matcher.num_open_bytes() == 3);
  CHECK(!matcher.read("ca"));
  CHECK(matcher.num_open_bytes() == 1);
  CHECK(!matcher.read("b"));
  auto match = matcher.read("b");
  REQUIRE(match);
  CHECK(match->stop_idx == 1);
}

}  // namespace fastgen
