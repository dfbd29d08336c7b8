// The cache of timed algorithms: text, key, damage. Needs no GPU.
#include "algorithm_cache.h"

#include <fstream>

#include "product_timer.h"
#include "support/support.h"

namespace fastgen::test {
namespace {

const std::string kKey = "fastgen products 1 | a card | 132 SMs | cuBLASLt 130200 | driver 13000";

AlgorithmTable some_algorithms() {
  AlgorithmTable table;
  table[{{DType::kBF16, DType::kF32, 4096, 14336, true}, 256}] = {1, 2, 3, 4, 5, 6, 7, ~0ull};
  table[{{DType::kBF16, DType::kBF16, 6144, 4096, false}, 8192}] = {0xdeadbeef};
  table[{{DType::kF32, DType::kF32, 40, 72, false}, 32}] = {};
  return table;
}

bool same(const AlgorithmTable& a, const AlgorithmTable& b) {
  return algorithm_text("", a) == algorithm_text("", b) && a.size() == b.size();
}

TEST_CASE("algorithm cache: what is written is read") {
  const AlgorithmTable table = some_algorithms();
  const auto read = parse_algorithms(algorithm_text(kKey, table), kKey);
  REQUIRE(read);
  CHECK(same(*read, table));
  CHECK(read->at({{DType::kBF16, DType::kF32, 4096, 14336, true}, 256})[7] == ~0ull);
  CHECK(read->count({{DType::kBF16, DType::kF32, 4096, 14336, false}, 256}) == 0);
  const auto none = parse_algorithms(algorithm_text(kKey, {}), kKey);
  REQUIRE(none);
  CHECK(none->empty());
}

TEST_CASE("algorithm cache: another card, a cut and every changed byte are noticed") {
  const std::string text = algorithm_text(kKey, some_algorithms());
  CHECK(!parse_algorithms(text, kKey + "x"));
  CHECK(!parse_algorithms(text + "\n", kKey));
  CHECK(!parse_algorithms("", kKey));
  for (std::size_t i = 0; i < text.size(); ++i) {
    CAPTURE(i);
    CHECK(!parse_algorithms(text.substr(0, i), kKey));
    for (char other : {'0', '9', ' ', '\n', '\0', 'x'}) {
      std::string damaged = text;
      damaged[i] = other;
      if (damaged != text) CHECK(!parse_algorithms(damaged, kKey));
    }
  }
}

TEST_CASE("algorithm cache: the file") {
  const TempDir folder;
  const auto file = algorithm_file(folder.path() / "not" / "there", kKey);
  CHECK(file != algorithm_file(folder.path() / "not" / "there", kKey + "x"));
  CHECK(load_algorithms(file, kKey).empty());
  REQUIRE(save_algorithms(file, kKey, some_algorithms()));
  CHECK(same(load_algorithms(file, kKey), some_algorithms()));
  CHECK(load_algorithms(file, kKey + "x").empty());
  // Nothing is left beside it.
  CHECK(std::distance(std::filesystem::directory_iterator(file.parent_path()), {}) == 1);
  std::ofstream(file, std::ios::app) << "more";
  CHECK(load_algorithms(file, kKey).empty());
  REQUIRE(save_algorithms(file, kKey, {}));
  CHECK(read_file(file) == algorithm_text(kKey, {}));
  CHECK(load_algorithms(file.parent_path(), kKey).empty());       // a folder
  CHECK(!save_algorithms(file / "below", kKey, some_algorithms()));  // under a file
}

TEST_CASE("buckets of rows") {
  CHECK(row_buckets(640) == std::vector<std::int64_t>{1, 2, 4, 8, 16, 32, 48, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640});
  CHECK(row_bucket(641) == 704);
  CHECK(row_bucket(1025) == 1088);
  CHECK(row_bucket(1281) == 1408);
  CHECK(row_bucket(2049) == 2560);
  CHECK(row_bucket(8193) == 10240);
  for (std::int64_t rows = 1; rows < 10000; ++rows) {
    const std::int64_t bucket = row_bucket(rows);
    CAPTURE(rows);
    CHECK(bucket >= rows);
    CHECK(row_bucket(bucket) == bucket);
    CHECK(row_bucket(rows + 1) >= bucket);
    if (rows > 64) CHECK(bucket - rows < std::max<std::int64_t>(64, rows / 4));
  }
}

}  // namespace
}  // namespace fastgen::test
