// The work list of decode attention (attend_decode_plan.cuh) as the host walks it: for tests without a GPU.
#pragma once

#include <cstdint>
#include <vector>

namespace fastgen::test {

// What a CTA works through between two merges: tiles tile .. tile_end - 1 of 64 keys of one sequence and KV head.
struct PlannedRun {
  int cta, seq, kv_head, split, tile, tile_end, span_begin, span_end;
  bool starts, ends;           // the head begins here, ends here
  int first_cta, last_cta;     // that share the head, as the merge counts them
};
struct DecodePlan {
  int share;  // units of a CTA
  std::vector<PlannedRun> runs;
};
// Every sequence has one query row; a context of 0 is padding.
DecodePlan plan_decode(const std::vector<std::int32_t>& contexts, int num_kv_heads, int splits, int window, int num_ctas);

}  // namespace fastgen::test
