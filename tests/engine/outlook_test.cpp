#include "engine/outlook.h"

#include <algorithm>
#include <random>
#include <vector>

#include "support/support.h"

using namespace fastgen;

namespace {

// By walking through time, one draw of each sequence after the other.
std::int64_t peak_by_walking(const std::vector<Outlook::Entry>& entries) {
  std::int64_t peak = 0, longest = 0;
  for (const Outlook::Entry& entry : entries) longest = std::max(longest, entry.num_to_come);
  for (std::int64_t now = 0; now <= longest; ++now) {
    std::int64_t held = 0;
    for (const Outlook::Entry& entry : entries)
      if (entry.num_to_come >= now) held += entry.num_tokens + entry.num_sequences * now;
    peak = std::max(peak, held);
  }
  return peak;
}

}  // namespace

TEST_CASE("outlook: the peak is that of a walk through time, whoever comes and goes") {
  std::mt19937_64 random(test::seed());
  const auto below = [&](std::int64_t bound) { return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(bound)); };
  for (int round = 0; round < 200; ++round) {
    Outlook outlook;
    std::vector<Outlook::Entry> entries;
    CHECK(outlook.peak() == 0);
    for (std::int64_t turns = 1 + below(20); turns > 0; --turns) {
      const Outlook::Entry entry{below(300), below(100), 1 + below(3)};
      entries.push_back(entry);
      const std::int64_t expected = peak_by_walking(entries);
      CHECK(outlook.peak_with(entry) == expected);
      outlook.add(entry);
      CHECK(outlook.peak() == expected);
      CHECK(Outlook(entries).peak() == expected);
      if (below(4) > 0) continue;
      const std::int64_t gone = below(static_cast<std::int64_t>(entries.size()));
      outlook.remove(entries[static_cast<std::size_t>(gone)]);
      entries.erase(entries.begin() + gone);
      CHECK(outlook.peak() == peak_by_walking(entries));
    }
  }
}

TEST_CASE("outlook: the usual length is the mean at first and follows the last ones") {
  UsualLength usual;
  CHECK(usual.tokens() == 0);
  usual.add(100);
  CHECK(usual.tokens() == 100);
  usual.add(300);
  CHECK(usual.tokens() == 200);
  for (int i = 0; i < 1000; ++i) usual.add(50);
  CHECK(usual.tokens() == 50);
}
