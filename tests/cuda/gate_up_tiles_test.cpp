// The units of gate-up of many rows: every place of out in exactly one part, whatever the shape and the card.
#include "gate_up_tiles.h"

#include <algorithm>
#include <random>
#include <vector>

#include "support/support.h"

namespace fastgen::test {
namespace {

using device::GateUpTiles;

constexpr int kGrain = 64;  // rows; columns go by kColumns

// How often each 64 rows by 128 columns of out are computed.
std::vector<int> times_computed(const GateUpTiles& tiles) {
  std::vector<int> times(static_cast<std::size_t>(tiles.row_pairs * (2 * GateUpTiles::kRows / kGrain) * tiles.columns));
  for (int unit = 0; unit < tiles.num_units(); ++unit) {
    for (int rank : {0, 1}) {
      const GateUpTiles::Part part = tiles.part(unit, rank);
      REQUIRE(part.row % kGrain == 0);
      REQUIRE(part.column % GateUpTiles::kColumns == 0);
      for (int row = part.row; row < part.row + part.num_rows; row += kGrain)
        ++times.at(static_cast<std::size_t>(row / kGrain * tiles.columns + part.column / GateUpTiles::kColumns));
    }
  }
  return times;
}

TEST_CASE("cuda: units of gate-up cover every place once") {
  std::mt19937_64 random(seed());
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  for (int i = 0; i < 300; ++i) {
    const int rows = draw(1, 9000), ffn_dim = 128 * draw(1, 150), in_dim = 64 * draw(1, 200), num_clusters = draw(1, 70);
    CAPTURE(rows);
    CAPTURE(ffn_dim);
    CAPTURE(in_dim);
    CAPTURE(num_clusters);
    const GateUpTiles tiles(rows, ffn_dim, std::int64_t{in_dim} * 2, num_clusters);
    CHECK(tiles.row_pairs * 2 * GateUpTiles::kRows >= rows);
    const std::vector<int> times = times_computed(tiles);
    CHECK(std::all_of(times.begin(), times.end(), [](int n) { return n == 1; }));
  }
}

TEST_CASE("cuda: a last round of gate-up's units that is at most half full goes in halves") {
  const GateUpTiles half(1280, 14336, 8192, 66);  // 560 units: 8 rounds and 32
  CHECK(half.num_whole == 8 * 66);
  CHECK(half.num_split == 32);
  CHECK(half.part(half.num_units() - 1, 1).num_rows == 64);
  const GateUpTiles fuller(1024, 14336, 8192, 66);  // 448 units: 6 rounds and 52
  CHECK(fuller.num_whole == 448);
  CHECK(fuller.num_split == 0);
}

TEST_CASE("cuda: units of gate-up that follow each other have other rows of the same columns") {
  const GateUpTiles tiles(8192, 14336, 8192, 66);
  CHECK(tiles.group == 8);
  for (int unit = 0; unit < 8; ++unit) {
    CHECK(tiles.part(unit, 0).row == 256 * unit);
    CHECK(tiles.part(unit, 1).row == 256 * unit + 128);
    CHECK(tiles.part(unit, 0).column == 0);
  }
  CHECK(tiles.part(8, 0).row == 0);
  CHECK(tiles.part(8, 0).column == 128);
}

}  // namespace
}  // namespace fastgen::test
