// How decode attention deals its work to CTAs: any lengths, every key once, and merges that count right. Needs no GPU.
#include "decode_plan.h"

#include <algorithm>
#include <map>
#include <random>
#include <tuple>

#include "support/support.h"

namespace fastgen::test {
namespace {

constexpr int kTileKeys = 64;

struct Head {
  int next_tile = -1;  // the first that no run has had; -1: none has begun
  int num_runs = 0, first_cta = 0, last_cta = 0;
  bool ended = false;
};

void check_plan(const std::vector<std::int32_t>& contexts, int kv_heads, int splits, int window, int num_ctas) {
  CAPTURE(contexts.size());
  CAPTURE(kv_heads);
  CAPTURE(window);
  CAPTURE(num_ctas);
  const DecodePlan plan = plan_decode(contexts, kv_heads, splits, window, num_ctas);
  std::map<std::tuple<int, int, int>, Head> heads;
  std::map<int, int> unfinished;  // by CTA: runs that do not hold a whole head
  for (const PlannedRun& run : plan.runs) {
    const int context = contexts[static_cast<std::size_t>(run.seq)], begin = window > 0 ? std::max(0, context - window) : 0;
    CHECK(run.span_begin == begin);
    CHECK(run.span_end == context);
    const int first_tile = begin / kTileKeys, num_tiles = (context + kTileKeys - 1) / kTileKeys;
    Head& head = heads[{run.seq, run.kv_head, run.split}];
    if (head.next_tile < 0) head = {first_tile, 0, run.cta, run.cta, false};
    CHECK(run.starts == (head.num_runs == 0));
    CHECK(run.tile == head.next_tile);
    CHECK(run.tile_end >= run.tile);
    CHECK_FALSE(head.ended);
    head.next_tile = run.tile_end, head.last_cta = run.cta, head.ended = run.ends, ++head.num_runs;
    if (run.ends) {
      // The last to come knows itself by this count; were it wrong, a head would never be written, or too early.
      CHECK(run.tile_end == num_tiles);
      CHECK(head.first_cta == run.first_cta);
      CHECK(head.last_cta == run.last_cta);
      CHECK(head.num_runs == run.last_cta - run.first_cta + 1);
    }
    // The workspace has a place for a head that was begun before, and one for a head that is left unfinished.
    if (!run.starts || !run.ends) CHECK(++unfinished[run.cta] <= 2);
  }
  std::size_t expected = 0;
  for (const std::int32_t context : contexts) expected += context > 0 ? static_cast<std::size_t>(kv_heads * splits) : 0;
  CHECK(heads.size() == expected);
  for (const auto& [where, head] : heads) CHECK(head.ended);
}

TEST_CASE("decode plan: every key is read once and every head is merged by one, whatever the lengths") {
  std::mt19937_64 random(seed());
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  for (int round = 0; round < 300; ++round) {
    std::vector<std::int32_t> contexts(static_cast<std::size_t>(draw(1, 60)));
    for (std::int32_t& context : contexts) {
      const int kind = draw(0, 4);
      context = kind == 0 ? 0 : kind == 1 ? draw(1, 70) : kind == 2 ? draw(1, 3000) : kind == 3 ? 64 * draw(1, 40) : draw(1, 600);
    }
    check_plan(contexts, draw(1, 8), draw(1, 3), draw(0, 2) == 0 ? draw(1, 900) : 0, draw(1, 300));
  }
}

TEST_CASE("decode plan: nothing to do, one key, a long context alone, and very unequal ones") {
  CHECK(plan_decode({0, 0, 0}, 8, 1, 0, 264).runs.empty());
  check_plan({1}, 1, 1, 0, 264);
  check_plan({131072}, 8, 1, 0, 264);
  check_plan({16384}, 8, 1, 4096, 264);
  std::vector<std::int32_t> unequal(64, 90);
  std::fill(unequal.begin(), unequal.begin() + 8, 8192);
  check_plan(unequal, 8, 1, 0, 264);
  // The load is even: no CTA has more than its share, and all but the last ones have it whole.
  const DecodePlan plan = plan_decode(unequal, 8, 1, 0, 264);
  std::vector<int> tiles(264);
  for (const PlannedRun& run : plan.runs) tiles[static_cast<std::size_t>(run.cta)] += run.tile_end - run.tile;
  CHECK(*std::max_element(tiles.begin(), tiles.end()) <= plan.share);
}

}  // namespace
}  // namespace fastgen::test
