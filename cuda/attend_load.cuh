// Loads of K and V from the paged arena into shared memory, for the tiled attention kernels.
#pragma once

#include "attend_plan.cuh"
#include "mma.cuh"

namespace fastgen::device {

// Starts the copies of kKeys keys from `first` (a multiple of kKeys), K rows to `to`, V rows behind them, each in
// PieceLayout, by kThreads threads of which this is number `thread`. Keys outside `span` become zeros: a weight of zero
// does not silence what is not a number. block_of(key): the block that holds a key of the span; called by all threads
// alike.
template <int D, int kKeys, int kThreads, typename BlockOf>
__device__ inline void load_keys(const AttendLaunch& a, int kv_head, Span span, int first, int thread, unsigned to,
                                 BlockOf block_of) {
  using Rows = PieceLayout<D>;
  constexpr int kCopies = kKeys * Rows::kPieces / kThreads, kTileBytes = kKeys * Rows::kRowBytes;
  static_assert(kKeys * Rows::kPieces % kThreads == 0);
  const __nv_bfloat16* arena = static_cast<const __nv_bfloat16*>(a.arena);
  const std::int64_t v_offset = a.layout.num_kv_heads * a.layout.tile_elements();
  const auto place = [&](int i) {
    const int piece = i * kThreads + thread;
    return to + Rows::at(piece / Rows::kPieces, piece % Rows::kPieces) * 16;
  };
  const bool whole = a.block_shift >= 0 ? a.layout.block_size >= kKeys : a.layout.block_size % kKeys == 0;
  if (whole && first >= span.begin && first + kKeys <= span.end) {
    // The common case: one block holds all rows, one after the other.
    const __nv_bfloat16* k = arena + a.layout.tile_offset(block_of(first), a.layer, 0, kv_head) +
                             (place_in_block(a, first) * D + thread * 8);
    const __nv_bfloat16* v = k + v_offset;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      copy_async(place(i), k + i * kThreads * 8);
      copy_async(place(i) + kTileBytes, v + i * kThreads * 8);
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < kCopies; ++i) {
    const int piece = i * kThreads + thread, key = first + piece / Rows::kPieces;
    const bool seen = key >= span.begin && key < span.end;
    const int block = block_of(min(max(key, span.begin), span.end - 1));
    const __nv_bfloat16* k = arena;
    if (seen)
      k += a.layout.tile_offset(block, a.layer, 0, kv_head) + (place_in_block(a, key) * D + piece % Rows::kPieces * 8);
    copy_async(place(i), k, seen);
    copy_async(place(i) + kTileBytes, k + (seen ? v_offset : 0), seen);
  }
}

}  // namespace fastgen::device
