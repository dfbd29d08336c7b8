#include "kv/kv_cache.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace fastgen {

std::vector<BlockRun> runs_of(std::vector<BlockCopy> copies) {
  std::sort(copies.begin(), copies.end(), [](const BlockCopy& a, const BlockCopy& b) { return std::pair(a.from, a.to) < std::pair(b.from, b.to); });
  std::vector<BlockRun> runs;
  for (const BlockCopy& copy : copies) {
    if (!runs.empty() && copy.from == runs.back().from + runs.back().count && copy.to == runs.back().to + runs.back().count) {
      ++runs.back().count;
    } else {
      runs.push_back({copy.from, copy.to, 1});
    }
  }
  return runs;
}

KvCache::KvCache(std::int32_t num_blocks, std::int32_t block_size) : block_size_(block_size), pool_(num_blocks) {
  FG_CHECK(num_blocks >= 0 && block_size >= 1, num_blocks, block_size);
}

KvCache::Table& KvCache::open_table(TableId table) {
  return const_cast<Table&>(static_cast<const KvCache*>(this)->open_table(table));
}

const KvCache::Table& KvCache::open_table(TableId table) const {
  FG_CHECK(table >= 0 && static_cast<std::size_t>(table) < tables_.size(), table);
  const Table& found = tables_[static_cast<std::size_t>(table)];
  FG_CHECK(found.is_open, table);
  return found;
}

std::span<const BlockId> KvCache::blocks(TableId table) const { return open_table(table).blocks; }

std::int32_t KvCache::num_sole_blocks(TableId table) const {
  const std::span<const BlockId> blocks = open_table(table).held();
  return static_cast<std::int32_t>(
      std::count_if(blocks.begin(), blocks.end(), [&](BlockId block) { return pool_.count(block) == 1; }));
}

std::int32_t KvCache::num_held_blocks(TableId table) const { return static_cast<std::int32_t>(open_table(table).held().size()); }

std::int32_t KvCache::slot(TableId table, std::int32_t position) const {
  const std::vector<BlockId>& blocks = open_table(table).blocks;
  const auto block_idx = static_cast<std::size_t>(position / block_size_);
  FG_CHECK(position >= 0 && block_idx < blocks.size(), table, position, blocks.size());
  FG_CHECK(block_idx >= open_table(table).num_dropped, table, position, open_table(table).num_dropped);
  return blocks[block_idx] * block_size_ + position % block_size_;
}

TableId KvCache::open() {
  TableId table = static_cast<TableId>(tables_.size());
  if (closed_.empty()) {
    tables_.emplace_back();
  } else {
    table = closed_.back();
    closed_.pop_back();
  }
  tables_[static_cast<std::size_t>(table)].is_open = true;
  ++num_open_;
  return table;
}

void KvCache::reserve(TableId table, std::int64_t num_tokens) {
  std::vector<BlockId>& blocks = open_table(table).blocks;
  const auto wanted = static_cast<std::size_t>(blocks_for(num_tokens));
  while (blocks.size() < wanted) blocks.push_back(pool_.take());
}

void KvCache::drop_before(TableId table, std::int64_t num_tokens) {
  Table& open = open_table(table);
  if (num_tokens < block_size_ || open.blocks.empty()) return;
  const auto end = std::min(static_cast<std::size_t>(num_tokens / block_size_), open.blocks.size() - 1);
  if (end <= open.num_dropped) return;
  for (std::size_t i = open.num_dropped; i < end; ++i) pool_.drop_holder(open.blocks[i]);
  open.num_dropped = end;
  std::fill_n(open.blocks.begin(), end, open.blocks[end]);
}

void KvCache::release(TableId table) {
  Table& closing = open_table(table);
  // Backwards, as the pool gives out first what it got last: neighbours in this table are neighbours in the next.
  const std::span<const BlockId> held = closing.held();
  for (std::size_t i = held.size(); i-- > 0;) pool_.drop_holder(held[i]);
  closing.blocks.clear();
  closing.num_dropped = 0;
  closing.is_open = false;
  closed_.push_back(table);
  --num_open_;
}

KvCache::Forked KvCache::fork(TableId source, std::int64_t num_tokens) {
  const std::int64_t num_full = num_tokens / block_size_;
  const bool has_partial = num_tokens % block_size_ != 0;
  Forked forked{hold(source, num_full * block_size_), {}};
  if (has_partial) {
    const std::vector<BlockId>& from = open_table(source).blocks;
    FG_CHECK(static_cast<std::size_t>(num_full) < from.size(), source, num_tokens);
    FG_CHECK(static_cast<std::size_t>(num_full) >= open_table(source).num_dropped, source, num_tokens);
    const BlockCopy copy{from[static_cast<std::size_t>(num_full)], pool_.take()};
    open_table(forked.table).blocks.push_back(copy.to);
    forked.copy = copy;
  }
  return forked;
}

TableId KvCache::hold(TableId source, std::int64_t num_tokens) {
  const TableId table = open();  // before taking references: it may move the tables
  const std::vector<BlockId>& from = open_table(source).blocks;
  const auto num_held = static_cast<std::size_t>(blocks_for(num_tokens));
  FG_CHECK(num_held <= from.size(), source, num_tokens, from.size());
  Table& to = open_table(table);
  to.num_dropped = std::min(open_table(source).num_dropped, num_held);
  to.blocks.assign(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(num_held));
  for (BlockId block : to.held()) pool_.add_holder(block);
  return table;
}

KvCache::Paged KvCache::page_from(const KvCache& tier, TableId source) {
  const Table& from = tier.open_table(source);
  FG_CHECK(this != &tier && block_size_ == tier.block_size_, block_size_, tier.block_size_);
  Paged paged{open(), {}};
  Table& to = open_table(paged.table);
  for (BlockId block : from.held()) paged.copies.push_back({block, pool_.take()});
  to.num_dropped = from.num_dropped;
  if (!paged.copies.empty()) to.blocks.assign(to.num_dropped, paged.copies.front().to);
  for (const BlockCopy& copy : paged.copies) to.blocks.push_back(copy.to);
  return paged;
}

void KvCache::check() const {
  pool_.check();
  std::vector<std::int32_t> counts(static_cast<std::size_t>(num_blocks()), 0);
  std::int32_t num_open = 0;
  for (const Table& table : tables_) {
    num_open += table.is_open;
    FG_CHECK(table.is_open || table.blocks.empty(), table.blocks.size());
    FG_CHECK(table.num_dropped <= table.blocks.size(), table.num_dropped, table.blocks.size());
    for (BlockId block : table.held()) ++counts[static_cast<std::size_t>(block)];
  }
  FG_CHECK(num_open == num_open_, num_open, num_open_);
  for (BlockId block = 0; block < num_blocks(); ++block)
    FG_CHECK(counts[static_cast<std::size_t>(block)] == pool_.count(block), block, pool_.count(block));
}

}  // namespace fastgen
