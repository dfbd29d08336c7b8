// Decode attention: one query row a sequence against its whole context, bound by how fast K and V can be read.
//
// Work is cut into tiles of 64 keys of one KV head. The list of all tiles (by sequence, then head, then position) is
// dealt out in equal runs to a fixed grid of CTAs, two an SM; each CTA finds its run by a scan of context_len when it
// runs, so that a captured graph serves any lengths (flash-decoding with the split as data; Dao et al. 2023). A short
// list is cut into whole pieces of a head instead, so that few heads are split. Where a head's run ends inside a CTA's
// share, the partial result (m, l, sums) goes to the workspace, and the CTA that comes last adds the partials up in
// their order in the list: results do not depend on timing, and there is no second kernel.
//
// In a CTA, each of 4 warps takes 16 keys of a tile and owns a ring of K and V chunks filled by cp.async: no barrier
// between warps until a head's run ends, and the ring runs ahead over the ends of heads and sequences. At head_dim 128
// a ring holds 3 chunks of 8 KB, so up to 192 KB of an SM's loads are under way. The products are turned round,
// S^T [keys, heads] = K q^T and O^T [dims, heads] = V^T P^T, so that the H / K heads that share a KV head fill the
// tensor cores' side of 8: half of the padding, registers and exponentials of the usual form. P^T passes from one
// product to the other by movmatrix.
//
// Until the product before has written this step's K and V, a CTA plans and fills its rings with older keys (launch.cuh): of the 8.7 us that one
// stream's attention added to a layer, 7.4 are left (no record).
//
// Measured on an H200 (gpu-ops.json), 32 heads, 8 KV heads, D = 128, caches cold, K and V read a second: 32 x 4096 4.20 TB/s, 256 x 1088
// 4.27, 256 x 4096 4.46, 1 x 4096 1.22 (13.8 us), 8 x 8192 beside 56 x 90 3.51. Tried and slower: one CTA an SM with a longer ring.
#include <algorithm>

#include "attend_decode_load.cuh"
#include "attend_decode_merge.cuh"
#include "attend_decode_state.cuh"
#include "launch.cuh"

namespace fastgen::device {

namespace {

using namespace decode;

constexpr int kStagesMax = 6;
constexpr int kCtasPerSmMax = 2;

struct Decode {
  AttendLaunch a;
  int stages;
};

// Padding rows become zeros.
__device__ void clear_padding(const AttendLaunch& a) {
  const int row_elements = a.num_heads * a.layout.head_dim;
  for (int seq = blockIdx.x; seq < a.num_decode_seqs; seq += gridDim.x) {
    if (a.context_len[seq] > 0 || num_queries(a, seq) == 0) continue;
    __nv_bfloat16* out = static_cast<__nv_bfloat16*>(a.out) + std::int64_t{a.query_start[seq]} * row_elements;
    for (int i = threadIdx.x; i < row_elements; i += kThreads) out[i] = from_float<__nv_bfloat16>(0);
  }
}

template <int D, int kBlocks>
__global__ void __launch_bounds__(kThreads, D > 128 ? 1 : 2) decode_kernel(Decode d) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const AttendLaunch& a = d.a;
  const int warp = threadIdx.x / kWarp;
  const unsigned ring = shared_address(shared) + warp * d.stages * Shape<D>::kStageBytes;
  float* sums = reinterpret_cast<float*>(shared) + kWarps * d.stages * Shape<D>::kStageBytes / 4;
  float2* stats = reinterpret_cast<float2*>(sums + Shape<D>::kSumBytes / 4);
  int* scratch = reinterpret_cast<int*>(stats + Shape<D>::kStatBytes / 8);
  const int group = a.num_heads / a.layout.num_kv_heads, splits = (group + kBlocks * kHeads - 1) / (kBlocks * kHeads);

  let_next_start();
  Plan plan{1, 1, splits, a.layout.num_kv_heads * splits};
  Walk walk;
  const bool busy = make_plan(a, scratch, plan, walk);
  Loader loader;
  int stage = 0;
  const auto fill_stage = [&] {
    load_chunk<D>(a, plan, loader, ring + stage * Shape<D>::kStageBytes);
    commit_copies();
    ++stage;
  };
  if (busy) {
    loader.begin(a, plan, walk);
    while (stage < d.stages && !loader.is_new()) fill_stage();
  }
  wait_for_previous();
  clear_padding(a);
  if (!busy) return;
  while (stage < d.stages) fill_stage();
  stage = 0;
  Segment s;
  while (walk.take(a, plan, s)) {
    const int first_in_group = s.split * (kBlocks * kHeads), first_head = s.kv_head * group + first_in_group;
    const int num_heads = min(kBlocks * kHeads, group - first_in_group);
    State<D, kBlocks> state;
    begin_segment<D, kBlocks>(a, s, first_head, num_heads, state);
    for (int tile = s.tile; tile < s.tile_end; ++tile) {
      const int first = tile * kTile + warp * kChunk;
      const unsigned chunk = ring + stage * Shape<D>::kStageBytes;
      wait_for_oldest(d.stages);
      __syncwarp();
      if (first < s.span.end && first + kChunk > s.span.begin)
        add_chunk<D, kBlocks>(s.span, first, a.scale * kLog2E, chunk, chunk + Shape<D>::kChunkBytes, state);
      __syncwarp();
      load_chunk<D>(a, plan, loader, chunk);
      commit_copies();
      if (++stage == d.stages) stage = 0;
    }
    end_segment<D, kBlocks>(a, plan, s, first_head, num_heads, state, sums, stats, scratch);
  }
  wait_copies<0>();
}

// ---- host

// How a card runs a kernel: stages of the rings and CTAs in all; stages 0: it does not fit.
struct Fit {
  int stages = 0;
  unsigned num_ctas = 0;
};

template <int D, int kBlocks>
Fit fit_card() {
  constexpr int kReservedBytes = 1024;  // the system's, of each CTA
  const int sm_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  const int cta_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  for (int ctas = kCtasPerSmMax; ctas >= 1; --ctas) {
    const int bytes = std::min(sm_bytes / ctas - kReservedBytes, cta_bytes) - Shape<D>::fixed_bytes();
    const int stages = std::min(kStagesMax, bytes / (kWarps * Shape<D>::kStageBytes));
    if (stages < 2) continue;
    if (cudaFuncSetAttribute(decode_kernel<D, kBlocks>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             Shape<D>::bytes(stages)) != cudaSuccess)
      continue;
    cudaFuncSetAttribute(decode_kernel<D, kBlocks>, cudaFuncAttributePreferredSharedMemoryCarveout,
                         cudaSharedmemCarveoutMaxShared);
    return {stages, static_cast<unsigned>(ctas * card().num_sms)};
  }
  return {};
}

template <int D, int kBlocks>
bool launch_shape(const AttendLaunch& a, cudaStream_t stream) {
  static const Fit fit = fit_card<D, kBlocks>();
  if (fit.stages == 0) return false;
  const auto bytes = static_cast<std::size_t>(Shape<D>::bytes(fit.stages));
  launch(decode_kernel<D, kBlocks>, {fit.num_ctas, kThreads, bytes}, stream, Decode{a, fit.stages});
  return true;
}

template <int D>
bool launch_for_group(const AttendLaunch& a, cudaStream_t stream) {
  if constexpr (Shape<D>::kHeadBlocks > 1)
    if (a.num_heads / a.layout.num_kv_heads > kHeads) return launch_shape<D, 2>(a, stream);
  return launch_shape<D, 1>(a, stream);
}

}  // namespace

std::size_t attend_workspace_bytes(std::int32_t head_dim) {
  const std::size_t num_ctas = static_cast<std::size_t>(kCtasPerSmMax * card().num_sms);
  const std::size_t head_bytes = sizeof(float2) + static_cast<std::size_t>(head_dim) * sizeof(float);
  return kPrefillWorkspaceBytes + (num_ctas + 3) / 4 * 4 * sizeof(int) + 2 * num_ctas * 2 * kHeads * head_bytes;
}

bool attend_decode(const AttendLaunch& a, cudaStream_t stream) {
  if (!a.bf16) return false;
  switch (a.layout.head_dim) {
    case 64: return launch_for_group<64>(a, stream);
    case 80: return launch_for_group<80>(a, stream);
    case 96: return launch_for_group<96>(a, stream);
    case 128: return launch_for_group<128>(a, stream);
    case 256: return launch_for_group<256>(a, stream);
    default: return false;
  }
}

}  // namespace fastgen::device
