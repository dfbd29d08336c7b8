// The work list of decode attention: every tile of 64 keys of every sequence and KV head, dealt out in equal runs of
// units to the CTAs. Found on the device when the kernel runs, so that a captured graph serves any lengths.
#pragma once

#include "attend_plan.cuh"

namespace fastgen::device {

inline constexpr int kDecodeWarps = 4;
inline constexpr int kTile = 64;  // keys
// The pieces that a short list is cut into: the smallest double that gives every piece a CTA of its own.
inline constexpr int kPieceTilesMin = 6, kPieceTilesMax = 12;

// What beginning and ending a head costs a CTA, in tiles, about: without it a CTA that is dealt many short contexts ends late
// (8 sequences of 8192 tokens and 56 of 90 on an H200: 114 us before there was this, gpu-ops-first.json; 83 us since, gpu-ops.json;
// with 1 here 91, with 3 as with 2, no record).
inline constexpr int kHeadCost = 2;

// The work list: entries are units of at most `unit_tiles` tiles. Units of one tile stand behind kHeadCost units for their head.
struct Plan {
  int unit_tiles;
  int share;   // units of a CTA
  int splits;  // passes over one KV head: each takes some of its query heads
  int passes;  // over one sequence's K and V: KV heads x splits
};

__host__ __device__ inline Span decode_span(const AttendLaunch& a, int seq) {
  if (num_queries(a, seq) == 0) return {0, 0};
  const int end = a.context_len[seq];
  return {a.window > 0 ? max(0, end - a.window) : 0, end};
}
__host__ __device__ inline int num_tiles(Span span) { return span.empty() ? 0 : (span.end + kTile - 1) / kTile - span.begin / kTile; }
__host__ __device__ inline int num_units(Span span, int unit_tiles) {
  const int tiles = num_tiles(span);
  if (unit_tiles == 1) return tiles > 0 ? tiles + kHeadCost : 0;
  return (tiles + unit_tiles - 1) / unit_tiles;
}

// A run of tiles of one pass over one KV head: what a CTA works through between two merges. It may be empty, where a CTA's share
// ends with the units that stand for a head's cost; it then counts among the head's partial results all the same.
struct Segment {
  int seq, kv_head, split;
  Span span;
  int tile, tile_end;   // in the sequence: keys 64 tile ..
  int unit, num_units;  // the whole head's place in the list
  bool starts, ends;    // the head begins here, ends here
};

// Steps through a CTA's share, segment by segment.
struct Walk {
  int unit, unit_end;
  Place place;

  __host__ __device__ bool take(const AttendLaunch& a, const Plan& plan, Segment& s) {
    if (unit >= unit_end) return false;
    Span span = decode_span(a, place.seq);
    int units = num_units(span, plan.unit_tiles);
    while (unit >= place.first + units * plan.passes) {
      place = {place.seq + 1, place.first + units * plan.passes};
      span = decode_span(a, place.seq);
      units = num_units(span, plan.unit_tiles);
    }
    s.seq = place.seq;
    const int pass = (unit - place.first) / units;
    s.kv_head = pass / plan.splits;
    s.split = pass % plan.splits;
    s.span = span;
    s.unit = place.first + pass * units;
    s.num_units = units;
    const int first = unit - s.unit, last = min(units, unit_end - s.unit);
    // Units of several tiles share a head's tiles evenly.
    const int origin = span.begin / kTile, tiles = num_tiles(span);
    s.tile = origin + (plan.unit_tiles == 1 ? max(first - kHeadCost, 0) : first * tiles / units);
    s.tile_end = origin + (plan.unit_tiles == 1 ? max(last - kHeadCost, 0) : last * tiles / units);
    s.starts = first == 0;
    s.ends = last == units;
    unit = s.unit + last;
    return true;
  }
};

// Chooses how large units are and how many of them a CTA gets; gives the length of the list. total() is its length with units of
// plan.unit_tiles. A list of pieces serves if every piece has a CTA of its own.
template <typename Total>
__host__ __device__ inline int deal(Plan& plan, int num_ctas, Total total) {
  const auto with = [&](int unit_tiles) {
    plan.unit_tiles = unit_tiles;
    return total();
  };
  int length = with(kPieceTilesMin);
  for (int tiles = 2 * kPieceTilesMin; length > num_ctas && tiles <= kPieceTilesMax; tiles *= 2) length = with(tiles);
  if (length > num_ctas) length = with(1);
  plan.share = (length + num_ctas - 1) / num_ctas;
  return length;
}

// Fills plan and walk; every thread of the CTA gets the same. False: nothing to do.
__device__ inline bool make_plan(const AttendLaunch& a, int* scratch, Plan& plan, Walk& walk) {
  const Run run = Run::of_thread<kDecodeWarps * kWarp>(0, a.num_decode_seqs);
  const int num_ctas = gridDim.x, cta = blockIdx.x;
  int before = 0;
  const auto size = [&](int seq) { return num_units(decode_span(a, seq), plan.unit_tiles) * plan.passes; };
  const int total = deal(plan, num_ctas, [&] {
    int length = 0;
    before = prefix_sum<kDecodeWarps>(run.sum(size), scratch, length);
    return length;
  });
  walk.unit = min(total, cta * plan.share);
  walk.unit_end = min(total, walk.unit + plan.share);
  Place* found = reinterpret_cast<Place*>(scratch);
  if (walk.unit < walk.unit_end) run.find(size, before, walk.unit, found);
  __syncthreads();
  walk.place = *found;
  return walk.unit < walk.unit_end;
}

}  // namespace fastgen::device
