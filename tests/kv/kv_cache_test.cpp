#include "kv/kv_cache.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "support/support.h"

using namespace fastgen;

namespace {

// The same cache without blocks shared or counted: each table is the list of what its slots hold, and the bytes of
// all blocks are there to see whether a copy or a shared block shows the right token.
class NaiveModel {
 public:
  explicit NaiveModel(const KvCache& kv) : kv_(kv) {
    bytes_.assign(static_cast<std::size_t>(kv.num_blocks() * kv.block_size()), -1);
  }
  std::map<TableId, std::vector<int>> tables;
  std::map<TableId, std::size_t> dropped;  // tokens at the beginning that nobody may read any more

  void write(TableId table, int token) {
    std::vector<int>& tokens = tables[table];
    bytes_[slot(table, tokens.size())] = token;
    tokens.push_back(token);
  }
  void copy(const BlockCopy& copy) {
    const auto size = static_cast<std::size_t>(kv_.block_size());
    for (std::size_t i = 0; i < size; ++i)
      bytes_[static_cast<std::size_t>(copy.to) * size + i] = bytes_[static_cast<std::size_t>(copy.from) * size + i];
  }
  std::size_t first(TableId table) const { return dropped.contains(table) ? dropped.at(table) : 0; }
  void check() const {
    std::set<BlockId> held;
    for (const auto& [table, tokens] : tables) {
      for (std::size_t i = first(table); i < tokens.size(); ++i) REQUIRE(bytes_[slot(table, i)] == tokens[i]);
      const auto live = kv_.blocks(table).subspan(std::min(first(table) / static_cast<std::size_t>(kv_.block_size()), kv_.blocks(table).size()));
      held.insert(live.begin(), live.end());
    }
    CHECK(static_cast<std::int32_t>(held.size()) + kv_.num_free_blocks() == kv_.num_blocks());
    CHECK(kv_.num_tables() == static_cast<std::int32_t>(tables.size()));
  }

 private:
  std::size_t slot(TableId table, std::size_t position) const {
    return static_cast<std::size_t>(kv_.slot(table, static_cast<std::int32_t>(position)));
  }
  const KvCache& kv_;
  std::vector<int> bytes_;  // by slot
};

}  // namespace

TEST_CASE("kv_cache: random use agrees with a naive model") {
  std::mt19937_64 random(test::seed());
  for (const std::int32_t block_size : {1, 3, 4, 16}) {
    KvCache kv(24, block_size);
    NaiveModel model(kv);
    const auto any_table = [&] { return std::next(model.tables.begin(), static_cast<std::ptrdiff_t>(random() % model.tables.size()))->first; };
    std::set<TableId> held;  // by hold: not written through
    for (int turn = 0; turn < 3000; ++turn) {
      const std::uint64_t action = random() % 11;
      if (model.tables.empty() || action == 0) {
        model.tables[kv.open()];
      } else if (action == 1) {
        const TableId table = any_table();
        const std::int32_t free_before = kv.num_free_blocks(), sole = kv.num_sole_blocks(table);
        kv.release(table);
        CHECK(kv.num_free_blocks() == free_before + sole);
        model.tables.erase(table);
        model.dropped.erase(table);
        held.erase(table);
      } else if (action <= 3) {
        const TableId source = any_table();
        // Not within what is dropped: nothing there is anybody's any more.
        const std::size_t length = model.first(source) + random() % (model.tables[source].size() + 1 - model.first(source));
        const bool needs_block = action == 2 && length % static_cast<std::size_t>(block_size) != 0;
        if (needs_block && kv.num_free_blocks() == 0) continue;
        const KvCache::Forked forked = action == 2 ? kv.fork(source, static_cast<std::int64_t>(length))
                                                   : KvCache::Forked{kv.hold(source, static_cast<std::int64_t>(length)), {}};
        CHECK(forked.copy.has_value() == needs_block);
        if (forked.copy) model.copy(*forked.copy);
        if (action == 3) held.insert(forked.table);
        const std::vector<int>& tokens = model.tables[source];
        model.tables[forked.table] = std::vector<int>(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(length));
        model.dropped[forked.table] = model.first(source);
      } else if (action == 10) {
        const TableId table = any_table();
        const std::size_t num_blocks = kv.blocks(table).size(), size = static_cast<std::size_t>(block_size);
        const std::size_t before = random() % (model.tables[table].size() + 2);
        kv.drop_before(table, static_cast<std::int64_t>(before) - 1);
        if (before == 0 || num_blocks == 0) continue;
        model.dropped[table] = std::max(model.first(table), std::min((before - 1) / size, num_blocks - 1) * size);
      } else {
        const TableId table = any_table();
        const auto wanted = static_cast<std::int64_t>(model.tables[table].size() + 1 + random() % 5);
        const std::int32_t needed = kv.blocks_for(wanted) - static_cast<std::int32_t>(kv.blocks(table).size());
        if (held.contains(table) || needed > kv.num_free_blocks()) continue;
        kv.reserve(table, wanted);
        while (static_cast<std::int64_t>(model.tables[table].size()) < wanted) model.write(table, turn);
      }
      kv.check();
      model.check();
    }
  }
}

TEST_CASE("kv_cache: blocks behind a window are given up, their entries stay addresses, and forks do without them") {
  KvCache kv(8, 4);
  const TableId table = kv.open();
  kv.reserve(table, 18);
  CHECK(kv.num_free_blocks() == 3);
  kv.drop_before(table, 11);  // tokens 8 to 10 share a block with 11
  CHECK(kv.num_free_blocks() == 5);
  CHECK(kv.num_sole_blocks(table) == 3);
  CHECK(kv.blocks(table).size() == 5);
  CHECK(kv.blocks(table)[0] == kv.blocks(table)[2]);
  kv.drop_before(table, 3);  // nothing comes back
  kv.drop_before(table, -5);
  CHECK(kv.num_free_blocks() == 5);
  const KvCache::Forked forked = kv.fork(table, 14);
  CHECK(forked.copy->from == kv.blocks(table)[3]);
  CHECK(kv.num_free_blocks() == 4);
  kv.release(table);
  CHECK(kv.num_free_blocks() == 6);  // the fork holds block 2 of the old table and its copy
  kv.drop_before(forked.table, 1000);
  CHECK(kv.num_free_blocks() == 7);  // the last one stays
  kv.release(forked.table);
  CHECK(kv.num_free_blocks() == 8);
  kv.check();
}

TEST_CASE("kv_cache: a fork shares full blocks and copies the partial one") {
  KvCache kv(8, 4);
  const TableId source = kv.open();
  kv.reserve(source, 6);
  const KvCache::Forked forked = kv.fork(source, 6);
  REQUIRE(forked.copy);
  CHECK(forked.copy->from == kv.blocks(source)[1]);
  CHECK(forked.copy->to == kv.blocks(forked.table)[1]);
  CHECK(kv.blocks(forked.table)[0] == kv.blocks(source)[0]);
  CHECK(kv.num_free_blocks() == 5);
  CHECK(kv.num_sole_blocks(source) == 1);
  kv.release(source);
  CHECK(kv.num_free_blocks() == 6);
  CHECK(kv.num_sole_blocks(forked.table) == 2);
}

TEST_CASE("kv_cache: a table paged to another tier and back has its shape, and copies that bring each token along") {
  std::mt19937_64 random(test::seed());
  for (const std::int32_t block_size : {1, 4}) {
    KvCache arena(20, block_size), host(9, block_size);
    const auto bytes_of = [&](const KvCache& tier) { return std::vector<int>(static_cast<std::size_t>(tier.num_blocks() * block_size), -1); };
    std::vector<int> arena_bytes = bytes_of(arena), host_bytes = bytes_of(host);
    const auto carry_out = [&](const KvCache::Paged& paged, const std::vector<int>& from, std::vector<int>& to) {
      for (const BlockCopy& copy : paged.copies)
        std::copy_n(from.begin() + copy.from * block_size, block_size, to.begin() + copy.to * block_size);
    };
    for (int turn = 0; turn < 500; ++turn) {
      const auto num_tokens = static_cast<std::int32_t>(1 + random() % static_cast<std::uint64_t>(9 * block_size));
      const auto num_dropped = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(num_tokens + 1));
      const TableId others = arena.open(), table = arena.open();
      arena.reserve(others, static_cast<std::int64_t>(random() % 5));
      arena.reserve(table, num_tokens);
      for (std::int32_t i = 0; i < num_tokens; ++i) arena_bytes[static_cast<std::size_t>(arena.slot(table, i))] = turn * 100 + i;
      arena.drop_before(table, num_dropped);
      const std::int32_t num_held = arena.num_held_blocks(table);
      const KvCache::Paged out = host.page_from(arena, table);
      CHECK(static_cast<std::int32_t>(out.copies.size()) == num_held);
      CHECK(host.num_free_blocks() == 9 - num_held);
      carry_out(out, arena_bytes, host_bytes);
      arena.release(table);
      std::fill(arena_bytes.begin(), arena_bytes.end(), -2);
      const KvCache::Paged in = arena.page_from(host, out.table);
      host.check();
      host.release(out.table);
      carry_out(in, host_bytes, arena_bytes);
      CHECK(arena.blocks(in.table).size() == static_cast<std::size_t>(arena.blocks_for(num_tokens)));
      CHECK(arena.num_held_blocks(in.table) == num_held);
      const std::int32_t first = (arena.blocks_for(num_tokens) - num_held) * block_size;
      for (std::int32_t i = first; i < num_tokens; ++i)
        REQUIRE(arena_bytes[static_cast<std::size_t>(arena.slot(in.table, i))] == turn * 100 + i);
      arena.reserve(in.table, num_tokens + block_size);  // it goes on as any other
      arena.check();
      arena.release(in.table);
      arena.release(others);
    }
    CHECK(arena.num_free_blocks() == 20);
    CHECK(host.num_free_blocks() == 9);
  }
}

TEST_CASE("kv_cache: copies of neighbours become one, and all of them are there") {
  CHECK(runs_of({}).empty());
  CHECK(runs_of({{5, 2}, {3, 0}, {4, 1}, {9, 3}}) == std::vector<BlockRun>{{3, 0, 3}, {9, 3, 1}});
  CHECK(runs_of({{0, 1}, {1, 0}}) == std::vector<BlockRun>{{0, 1, 1}, {1, 0, 1}});  // neighbours on one side alone
  CHECK(runs_of({{7, 4}, {7, 2}, {8, 5}}) == std::vector<BlockRun>{{7, 2, 1}, {7, 4, 2}});  // one block to two places
  std::mt19937_64 random(test::seed());
  for (int round = 0; round < 200; ++round) {
    std::vector<BlockId> from(12), to(12);
    std::iota(from.begin(), from.end(), 0);
    std::iota(to.begin(), to.end(), 20);
    for (int swaps = static_cast<int>(random() % 6); swaps > 0; --swaps) std::swap(to[random() % 12], to[random() % 12]);
    std::vector<BlockCopy> copies;
    for (std::size_t i = 0; i < 12; ++i) copies.push_back({from[i], to[i]});
    std::shuffle(copies.begin(), copies.end(), random);
    std::map<BlockId, BlockId> carried;
    for (const BlockRun& run : runs_of(copies))
      for (std::int32_t i = 0; i < run.count; ++i) CHECK(carried.emplace(run.from + i, run.to + i).second);
    for (std::size_t i = 0; i < 12; ++i) CHECK(carried.at(from[i]) == to[i]);
  }
}

TEST_CASE("kv_cache: neighbours of a table that was released are neighbours in the next, so that paging it takes one copy") {
  KvCache arena(20, 4), host(20, 4);
  const auto table_of = [&](std::int64_t num_tokens) {
    const TableId table = arena.open();
    arena.reserve(table, num_tokens);
    return table;
  };
  const TableId first = table_of(20), second = table_of(24);
  arena.release(first);
  arena.release(second);
  const TableId again = table_of(24);
  const KvCache::Paged away = host.page_from(arena, again);
  CHECK(runs_of(away.copies).size() == 1);
  arena.release(again);
  CHECK(runs_of(arena.page_from(host, away.table).copies).size() == 1);
}

TEST_CASE("kv_cache: a tier without blocks is there and holds nothing") {
  KvCache host(0, 4);
  CHECK(host.num_free_blocks() == 0);
  host.check();
}
