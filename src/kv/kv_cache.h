// Which token lives in which block: one block table per sequence, full blocks shared by count. The arena's blocks are one tier; those
// of host memory, where sequences that lost their place are paged out to, are another, with a KvCache of their own.
//
//   table of a sequence, block_size 4:   [ 7 | 2 | 9 ]        slot of token 5 = block 2, place 1 = 2 * 4 + 1
//   fork at token 6:                     [ 7 | 5 ]  block 7 is shared, 2 -> 5 is a copy that the caller carries out
//   hold of 6 tokens:                    [ 7 | 2 ]  nothing is copied; later tokens in block 2 are not the holder's
//   drop before token 5:                 [ 2 | 2 ]  the first is free, or somebody else's; its entry is never read
//   page from the arena to the host:     [ 4 | 0 ]  of the other tier: 7 -> 4 and 2 -> 0 are copies that the caller carries out
//
// The scheduler asks the const members and plans; the engine then calls the others, which cannot fail: a plan
// that needs more than there is aborts.
//
// Invariants: 1. free + held == pool; 2. a block's count is the number of tables that hold it; 3. a token is written only
// through a table that is the block's only writer: it lies beyond what any other table counts as its own.
// Deals in ids, never bytes. Belongs to one thread, the engine's.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kv/block_pool.h"

namespace fastgen {

using TableId = std::int32_t;  // kNoTable or an index, reused after release
inline constexpr TableId kNoTable = -1;

// The bytes of block `from` must be in block `to` before anyone reads the new table.
struct BlockCopy {
  BlockId from = 0;
  BlockId to = 0;
};

// Blocks from, from + 1, ... to blocks to, to + 1, ...: what one copy can carry.
struct BlockRun {
  BlockId from = 0;
  BlockId to = 0;
  std::int32_t count = 0;
  bool operator==(const BlockRun&) const = default;
};
// The copies, which may be carried out in any order, as few runs as that takes; sorted by `from`.
std::vector<BlockRun> runs_of(std::vector<BlockCopy> copies);

class KvCache {
 public:
  KvCache(std::int32_t num_blocks, std::int32_t block_size);

  // ---- answers for the scheduler
  std::int32_t block_size() const { return block_size_; }
  std::int32_t num_blocks() const { return pool_.num_blocks(); }
  std::int32_t num_free_blocks() const { return pool_.num_free(); }
  std::int32_t blocks_for(std::int64_t num_tokens) const {
    return static_cast<std::int32_t>((num_tokens + block_size_ - 1) / block_size_);
  }
  // Blocks that nobody else holds: what a release gives back for certain.
  std::int32_t num_sole_blocks(TableId table) const;
  // Blocks that were not given up behind a window: what paging the table to another tier takes there.
  std::int32_t num_held_blocks(TableId table) const;
  std::span<const BlockId> blocks(TableId table) const;
  std::int32_t num_tables() const { return num_open_; }
  // Where token `position` of the table lives.
  std::int32_t slot(TableId table, std::int32_t position) const;

  // ---- carrying out
  TableId open();  // an empty table
  // Takes blocks until `num_tokens` fit.
  void reserve(TableId table, std::int64_t num_tokens);
  // Gives up the blocks that lie wholly before token `num_tokens`: nobody will read them through this table again. The table keeps
  // its length; entries of blocks given up name one that it still has, so that they stay addresses of the arena. At least the last
  // block stays.
  void drop_before(TableId table, std::int64_t num_tokens);
  // Gives up all blocks and the id itself.
  void release(TableId table);
  // A new table with the first `num_tokens` of `source`: full blocks shared, of a partial last one a copy.
  struct Forked {
    TableId table = kNoTable;
    std::optional<BlockCopy> copy;
  };
  Forked fork(TableId source, std::int64_t num_tokens);
  // A new table that keeps the blocks of the first `num_tokens` of `source` alive, the partial one too. Never written through.
  TableId hold(TableId source, std::int64_t num_tokens);
  // A new table of the same shape as one of another tier, no block of it shared; each held block has its copy, from theirs to ours.
  struct Paged {
    TableId table = kNoTable;
    std::vector<BlockCopy> copies;
  };
  Paged page_from(const KvCache& tier, TableId source);

  void check() const;  // aborts if an invariant is broken; walks everything

 private:
  struct Table {
    bool is_open = false;
    std::size_t num_dropped = 0;  // the first ones, no longer held
    std::vector<BlockId> blocks;
    std::span<const BlockId> held() const { return std::span(blocks).subspan(num_dropped); }
  };
  Table& open_table(TableId table);
  const Table& open_table(TableId table) const;

  std::int32_t block_size_;
  BlockPool pool_;
  std::vector<Table> tables_;
  std::vector<TableId> closed_;
  std::int32_t num_open_ = 0;
};

}  // namespace fastgen
