// softmax(q k^T * scale) v over paged K and V, for prefill and decode alike.
//
// Work is cut into items: one sequence, one kv head, up to kTileRows of its (query row, head of the group) pairs, and
// kSplitKeys of the keys. All pairs of an item share each load of K and V. An item's softmax runs online over blocks of
// keys (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018); where a sequence has several
// items along the keys, their partial sums are merged afterwards. The cut depends on the sequence alone, so that a
// row's result does not depend on the batch.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/thread_pool.h"
#include "backend/cpu/workspace.h"

namespace fastgen {

// native_bf16: with the AVX512-BF16 implementation where it fits.
void attend(ThreadPool& pool, Workspace& workspace, bool native_bf16, const AttendArgs& args);
// Grows the workspace to what attend() needs for any batch within the limits.
void reserve_attention(Workspace& workspace, const OpLimits& limits);

// ---- one item, on one thread
struct AttendItem {
  std::int32_t seq = 0, kv_head = 0;
  std::int32_t pair_begin = 0, pair_end = 0;  // pair = query row of the sequence * group + head of the group
  std::int32_t key_begin = 0, key_end = 0;    // positions; empty: zeros
  std::int32_t partial = -1;                  // first row of the partial results; < 0: writes `out` itself
};

inline constexpr int kAttendTileRows = 96;   // pairs of one item
inline constexpr int kAttendKeyBlock = 64;   // keys whose scores are held at once
inline constexpr int kAttendSplitKeys = 512;  // decode: keys of one item
inline constexpr int kAttendMaxDim = 256;

// A partial result: the unnormalised sum [D], the largest score and the sum of exponentials.
inline constexpr std::int64_t partial_floats(std::int64_t head_dim) { return head_dim + 2; }

void attend_item(const AttendArgs& args, const AttendItem& item, float* partials, float* scratch);
bool can_attend_bf16(const AttendArgs& args);
void attend_item_bf16(const AttendArgs& args, const AttendItem& item, float* partials, float* scratch);
// Enough for either.
std::int64_t attend_scratch_floats(std::int64_t head_dim);

}  // namespace fastgen
