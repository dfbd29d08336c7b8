#include "backend/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/row_ops.h"
#include "base/check.h"

namespace fastgen {

namespace {

// One round of items fits these; a batch that needs more is run in several rounds.
constexpr std::int64_t kMaxItems = 4096;
constexpr std::int64_t kMaxPartials = 8192;
constexpr std::int64_t kMaxSplits = 64;  // of one tile along the keys
constexpr std::int64_t kSplitMaxRows = 4;  // query rows of a sequence up to which its keys are split
static_assert(kMaxSplits * kAttendTileRows <= kMaxPartials);

// Items of one tile whose partial results must be merged.
struct Merge {
  AttendItem tile;  // pairs, first partial row
  std::int32_t num_splits = 0;
};

struct Round {
  AttendItem* items = nullptr;
  Merge* merges = nullptr;
  std::int64_t num_items = 0, num_merges = 0, num_partials = 0;
};

std::int64_t group_size(const AttendArgs& args) { return args.q.shape[1] / args.arena.layout.num_kv_heads; }

// Keys of one item: all of them in prefill, kAttendSplitKeys (or more, for at most kMaxSplits) in decode.
std::int64_t split_keys(std::int64_t num_queries, std::int64_t num_keys) {
  if (num_queries > kSplitMaxRows) return std::max<std::int64_t>(num_keys, 1);
  const std::int64_t needed = (num_keys + kMaxSplits - 1) / kMaxSplits;
  const std::int64_t blocks = (needed + kAttendKeyBlock - 1) / kAttendKeyBlock;
  return std::max<std::int64_t>(kAttendSplitKeys, blocks * kAttendKeyBlock);
}

// The items of one tile: pairs [begin, end) of one sequence and kv head. False: no room in this round.
bool add_tile(const AttendArgs& args, Round& round, AttendItem tile, std::int64_t num_queries, std::int64_t context) {
  const std::int64_t group = group_size(args);
  const std::int64_t first = context - num_queries;
  const std::int64_t key_end = context == 0 ? 0 : first + (tile.pair_end - 1) / group + 1;
  const std::int64_t oldest = first + tile.pair_begin / group + 1 - args.window;
  const std::int64_t key_begin = args.window > 0 && context > 0 ? std::max<std::int64_t>(0, oldest) : 0;
  const std::int64_t step = split_keys(num_queries, key_end - key_begin);
  const std::int64_t splits = std::max<std::int64_t>(1, (key_end - key_begin + step - 1) / step);
  const std::int64_t pairs = tile.pair_end - tile.pair_begin;
  const bool merged = splits > 1;
  if (round.num_items + splits > kMaxItems) return false;
  if (merged && round.num_partials + splits * pairs > kMaxPartials) return false;
  if (merged) {
    tile.partial = static_cast<std::int32_t>(round.num_partials);
    round.merges[round.num_merges++] = {tile, static_cast<std::int32_t>(splits)};
  }
  for (std::int64_t i = 0; i < splits; ++i) {
    AttendItem item = tile;
    item.key_begin = static_cast<std::int32_t>(key_begin + i * step);
    item.key_end = static_cast<std::int32_t>(std::min(key_end, key_begin + (i + 1) * step));
    item.partial = merged ? static_cast<std::int32_t>(round.num_partials + i * pairs) : -1;
    round.items[round.num_items++] = item;
  }
  if (merged) round.num_partials += splits * pairs;
  return true;
}

void merge(const AttendArgs& args, const Merge& merge, const float* partials) {
  const std::int64_t head_dim = args.q.shape[2], group = group_size(args), width = partial_floats(head_dim);
  const std::int64_t pairs = merge.tile.pair_end - merge.tile.pair_begin;
  const std::int64_t first_row = args.batch.query_start.as<std::int32_t>()[merge.tile.seq];
  for (std::int64_t r = 0; r < pairs; ++r) {
    const float* first = partials + (merge.tile.partial + r) * width;
    float max = -std::numeric_limits<float>::infinity();
    for (int i = 0; i < merge.num_splits; ++i) max = std::max(max, first[i * pairs * width + head_dim]);
    float sums[kAttendMaxDim] = {};
    float total = 0;
    for (int i = 0; i < merge.num_splits; ++i) {
      const float* part = first + i * pairs * width;
      const float factor = part[head_dim + 1] > 0 ? std::exp(part[head_dim] - max) : 0.0f;
      total += factor * part[head_dim + 1];
      for (std::int64_t d = 0; d < head_dim; ++d) sums[d] += factor * part[d];
    }
    const float scale = total > 0 ? 1 / total : 0.0f;
    for (std::int64_t d = 0; d < head_dim; ++d) sums[d] *= scale;
    const std::int64_t pair = merge.tile.pair_begin + r;
    const std::int64_t head = merge.tile.kv_head * group + pair % group;
    const std::int64_t target = ((first_row + pair / group) * args.q.shape[1] + head) * head_dim;
    convert_row(sums, head_dim, static_cast<char*>(args.out.data) + static_cast<std::size_t>(target) * dtype_bytes(args.out.dtype),
                args.out.dtype);
  }
}

void run_round(ThreadPool& pool, Workspace& workspace, bool native, const AttendArgs& args, Round& round,
               float* partials) {
  const std::int64_t scratch_floats = attend_scratch_floats(args.q.shape[2]);
  // Later tiles of a sequence see more keys: the longest first, so that threads end together.
  pool.parallel_for(round.num_items, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
    float* scratch = workspace.threads[static_cast<std::size_t>(thread)].attention.get<float>(scratch_floats);
    for (std::int64_t i = begin; i < end; ++i) {
      const AttendItem& item = round.items[round.num_items - 1 - i];
      native ? attend_item_bf16(args, item, partials, scratch) : attend_item(args, item, partials, scratch);
    }
  });
  pool.parallel_for(round.num_merges, 8, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) merge(args, round.merges[i], partials);
  });
  round.num_items = round.num_merges = round.num_partials = 0;
}

}  // namespace

void attend(ThreadPool& pool, Workspace& workspace, bool native_bf16, const AttendArgs& args) {
  const bool native = native_bf16 && can_attend_bf16(args);
  const std::int64_t kv_heads = args.arena.layout.num_kv_heads, head_dim = args.q.shape[2];
  FG_CHECK(args.q.shape[1] % kv_heads == 0 && head_dim == args.arena.layout.head_dim, args.q.shape[1], kv_heads, head_dim);
  FG_CHECK(head_dim <= kAttendMaxDim && args.out.dtype == args.q.dtype, head_dim);
  const std::int64_t group = group_size(args);
  const std::int64_t tile_pairs = group > kAttendTileRows ? kAttendTileRows : kAttendTileRows / group * group;
  std::byte* storage = workspace.attend_items.get<std::byte>(kMaxItems * static_cast<std::int64_t>(sizeof(AttendItem) + sizeof(Merge)));
  float* partials = workspace.attend_partials.get<float>(kMaxPartials * partial_floats(head_dim));
  Round round;
  round.items = reinterpret_cast<AttendItem*>(storage);
  round.merges = reinterpret_cast<Merge*>(storage + kMaxItems * sizeof(AttendItem));

  const std::int32_t* query_start = args.batch.query_start.as<std::int32_t>();
  const std::int32_t* context_len = args.batch.context_len.as<std::int32_t>();
  const std::int64_t num_seqs = args.batch.context_len.rows();
  for (std::int64_t b = 0; b < num_seqs; ++b) {
    const std::int64_t num_queries = query_start[b + 1] - query_start[b];
    FG_CHECK(context_len[b] == 0 || context_len[b] >= num_queries, b, context_len[b], num_queries);
    for (std::int64_t head = 0; head < kv_heads; ++head) {
      for (std::int64_t pair = 0; pair < num_queries * group; pair += tile_pairs) {
        AttendItem tile;
        tile.seq = static_cast<std::int32_t>(b);
        tile.kv_head = static_cast<std::int32_t>(head);
        tile.pair_begin = static_cast<std::int32_t>(pair);
        tile.pair_end = static_cast<std::int32_t>(std::min(pair + tile_pairs, num_queries * group));
        if (add_tile(args, round, tile, num_queries, context_len[b])) continue;
        run_round(pool, workspace, native, args, round, partials);
        FG_CHECK(add_tile(args, round, tile, num_queries, context_len[b]), b);
      }
    }
  }
  run_round(pool, workspace, native, args, round, partials);
}

void reserve_attention(Workspace& workspace, const OpLimits& limits) {
  workspace.attend_items.get<std::byte>(kMaxItems * static_cast<std::int64_t>(sizeof(AttendItem) + sizeof(Merge)));
  workspace.attend_partials.get<float>(kMaxPartials * partial_floats(limits.head_dim));
  for (ThreadScratch& thread : workspace.threads) thread.attention.get<float>(attend_scratch_floats(limits.head_dim));
}

}  // namespace fastgen
