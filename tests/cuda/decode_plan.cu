#include "decode_plan.h"

#include <algorithm>

#include "attend_decode_plan.cuh"

namespace fastgen::test {

namespace {

// Of the list with the plan's units. No lambda: nvcc warns of a host's lambda in a function that the device runs too.
struct Length {
  const device::AttendLaunch& a;
  const device::Plan& plan;

  __host__ __device__ int operator()() const {
    int length = 0;
    for (int seq = 0; seq < a.num_decode_seqs; ++seq)
      length += device::num_units(device::decode_span(a, seq), plan.unit_tiles) * plan.passes;
    return length;
  }
};

}  // namespace

DecodePlan plan_decode(const std::vector<std::int32_t>& contexts, int num_kv_heads, int splits, int window, int num_ctas) {
  std::vector<std::int32_t> starts;
  for (std::size_t i = 0; i <= contexts.size(); ++i) starts.push_back(static_cast<std::int32_t>(i));
  device::AttendLaunch a{};
  a.query_start = starts.data();
  a.context_len = contexts.data();
  a.num_decode_seqs = static_cast<std::int32_t>(contexts.size());
  a.window = window;
  device::Plan plan{1, 1, splits, num_kv_heads * splits};
  const int total = device::deal(plan, num_ctas, Length{a, plan});
  DecodePlan found{plan.share, {}};
  for (int cta = 0; cta < num_ctas; ++cta) {
    device::Walk walk{};
    walk.unit = std::min(total, cta * plan.share);
    walk.unit_end = std::min(total, walk.unit + plan.share);
    device::Segment s{};
    while (walk.take(a, plan, s))
      found.runs.push_back({cta, s.seq, s.kv_head, s.split, s.tile, s.tile_end, s.span.begin, s.span.end, s.starts, s.ends,
                            s.unit / plan.share, (s.unit + s.num_units - 1) / plan.share});
  }
  return found;
}

}  // namespace fastgen::test
