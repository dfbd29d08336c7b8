#include "progress_bar.h"

#include "support/support.h"

namespace fastgen {

TEST_CASE("counts have three digits and a unit") {
  CHECK(short_count(0) == "0");
  CHECK(short_count(999) == "999");
  CHECK(short_count(1000) == "1.00k");
  CHECK(short_count(9'994) == "9.99k");
  CHECK(short_count(9'996) == "10.0k");
  CHECK(short_count(99'960) == "100k");
  CHECK(short_count(999'600) == "1.00M");
  CHECK(short_count(14.5e9) == "14.5G");
  CHECK(short_count(75.94e9) == "75.9G");
}

TEST_CASE("the line at its end, half way and at the start") {
  CHECK(progress_line("loading", 14'500'000'000, 14'500'000'000, 0.191, 63) ==
        "loading: 100%|############| 14.5G/14.5G [00:00<00:00, 75.9GB/s]");
  CHECK(progress_line("loading", 50, 100, 65, 50) == "loading:  50%|####    | 50/100 [01:05<01:05, 1B/s]");
  CHECK(progress_line("loading", 0, 100, 0, 49) == "loading:   0%|        | 0/100 [00:00<??:??, 0B/s]");
}

TEST_CASE("a narrow terminal still has a bar, a wide one no endless bar") {
  CHECK(progress_line("loading", 100, 100, 1, 10).find("|####|") != std::string::npos);
  CHECK(progress_line("loading", 100, 100, 1, 500).size() < 100);
}

}  // namespace fastgen
