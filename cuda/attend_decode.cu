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

#include "attend_decode_plan.cuh"
#include "attend_load.cuh"
#include "launch.cuh"

namespace fastgen::device {

namespace {

constexpr int kWarps = kDecodeWarps;
constexpr int kThreads = kWarps * kWarp;
constexpr int kChunk = kTile / kWarps;  // keys that a warp takes at once
constexpr int kHeads = 8;               // query heads in one mma
constexpr int kStagesMax = 6;
constexpr int kCtasPerSmMax = 2;

// Shared memory of one CTA, in bytes from its start.
//   ring   [warp][stage][K|V] chunks of 16 rows
//   sums   [warp][8 heads][D, up to whole lines] float, then stats [warp][16 heads] float2 {m, l}
//   plan   ints
template <int D>
struct Shape {
  using Rows = PieceLayout<D>;
  static constexpr int kHeadBlocks = D > 128 ? 1 : 2;  // the most; a larger group takes several passes
  static constexpr int kChunkBytes = kChunk * Rows::kRowBytes;
  static constexpr int kStageBytes = 2 * kChunkBytes;
  static constexpr int kSumPitch = (D + 31) / 32 * 32;
  static constexpr int kSumBytes = kWarps * kHeads * kSumPitch * 4;
  static constexpr int kStatBytes = kWarps * 2 * kHeads * 8;
  static constexpr int kPlanBytes = 64;
  static constexpr int fixed_bytes() { return kSumBytes + kStatBytes + kPlanBytes; }
  static constexpr int bytes(int stages) { return kWarps * stages * kStageBytes + fixed_bytes(); }
};

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

// A warp's place in the loads, some chunks ahead of the products.
struct Loader {
  Walk walk;
  Segment s;
  bool live;
  int block;  // block table's entry for key `lane` (mod 16) of the chunk; read one chunk ahead of its use

  __device__ void begin(const AttendLaunch& a, const Plan& plan, const Walk& all) {
    walk = all;
    take(a, plan);
    look_up(a);
  }
  __device__ void take(const AttendLaunch& a, const Plan& plan) {
    do live = walk.take(a, plan, s);
    while (live && s.tile == s.tile_end);
  }
  __device__ int first_key() const { return s.tile * kTile + static_cast<int>(threadIdx.x) / kWarp * kChunk; }
  // Whether the warp's next chunk holds the key that this step writes, its sequence's last.
  __device__ bool is_new() const { return live && first_key() + kChunk >= s.span.end; }
  __device__ void look_up(const AttendLaunch& a) {
    if (!live) return;
    const int key = min(max(first_key() + static_cast<int>(threadIdx.x) % kChunk, s.span.begin), s.span.end - 1);
    block = a.block_table[std::int64_t{s.seq} * a.blocks_per_seq + block_index(a, key)];
  }
  __device__ void advance(const AttendLaunch& a, const Plan& plan) {
    if (live && ++s.tile == s.tile_end) take(a, plan);
    look_up(a);
  }
};

// Starts the loads of a warp's next chunk, and steps on.
template <int D>
__device__ void load_chunk(const AttendLaunch& a, const Plan& plan, Loader& loader, unsigned to) {
  const Segment& s = loader.s;
  const int first = loader.first_key(), lane = threadIdx.x % kWarp;
  if (loader.live && first < s.span.end && first + kChunk > s.span.begin)
    load_keys<D, kChunk, kWarp>(a, s.kv_head, s.span, first, lane, to, [&](int key) {
      return __shfl_sync(kAllLanes, loader.block, key - first);
    });
  loader.advance(a, plan);
}

__device__ void wait_for_oldest(int stages) {
  switch (stages) {
    case 2: return wait_copies<1>();
    case 3: return wait_copies<2>();
    case 4: return wait_copies<3>();
    case 5: return wait_copies<4>();
    default: return wait_copies<5>();
  }
}

// A warp's state over one segment: kBlocks x 8 query heads.
template <int D, int kBlocks>
struct State {
  unsigned q[kBlocks][D / 16][2];   // B fragments
  float sums[kBlocks][D / 16][4];   // C fragments of O^T [dims, heads]
  float max[kBlocks][2];            // of heads 2 (lane % 4) + {0, 1}, in units of log2
  float mass[kBlocks][2];           // of this lane's keys alone, as rounded as they meet V
};

template <int D, int kBlocks>
__device__ void begin_segment(const AttendLaunch& a, const Segment& s, int first_head, int num_heads,
                              State<D, kBlocks>& state) {
  const int lane = threadIdx.x % kWarp;
  const __nv_bfloat16* q = static_cast<const __nv_bfloat16*>(a.q) +
                           (std::int64_t{a.query_start[s.seq]} * a.num_heads + first_head) * D;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    const int head = block * kHeads + lane / 4;
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      const unsigned* at = reinterpret_cast<const unsigned*>(q + head * D + step * 16 + lane % 4 * 2);
      state.q[block][step][0] = head < num_heads ? at[0] : 0;
      state.q[block][step][1] = head < num_heads ? at[4] : 0;
#pragma unroll
      for (float& sum : state.sums[block][step]) sum = 0;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) state.max[block][i] = -INFINITY, state.mass[block][i] = 0;
  }
}

// S^T of one chunk, C fragments [keys, heads].
template <int D, int kBlocks>
__device__ void score(const State<D, kBlocks>& state, unsigned k, float (&scores)[kBlocks][4]) {
  using Rows = typename Shape<D>::Rows;
  const int lane = threadIdx.x % kWarp;
  k += Rows::at(lane / 8 % 2 * 8 + lane % 8, lane / 16) * 16;
  float odd[kBlocks][4];  // two chains, so that a product waits less for the one before
#pragma unroll
  for (int block = 0; block < kBlocks; ++block)
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[block][i] = odd[block][i] = 0;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    unsigned keys[4];
    load_matrices(keys, Rows::ahead(k, 2 * step));
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
      multiply_add(step % 2 ? odd[block] : scores[block], keys, state.q[block][step][0], state.q[block][step][1]);
  }
#pragma unroll
  for (int block = 0; block < kBlocks; ++block)
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[block][i] += odd[block][i];
}

__device__ float max_over_keys(float x) {
  for (int offset = 4; offset < kWarp; offset *= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}
__device__ float sum_over_keys(float x) {
  for (int offset = 4; offset < kWarp; offset *= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

// One chunk: scores, online softmax, weighted V. first: position of its first key.
template <int D, int kBlocks>
__device__ void add_chunk(Span span, int first, float scale, unsigned k, unsigned v, State<D, kBlocks>& state) {
  using Rows = typename Shape<D>::Rows;
  const int lane = threadIdx.x % kWarp;
  float scores[kBlocks][4];
  score(state, k, scores);
  const bool edge = first < span.begin || first + kChunk > span.end;
  unsigned weights[kBlocks][2];
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = first + lane / 4 + i / 2 * 8;
      const bool seen = !edge || (key >= span.begin && key < span.end);
      scores[block][i] = seen ? scores[block][i] * scale : -INFINITY;
    }
    float shrink[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float &low = scores[block][i], &high = scores[block][i + 2];
      const float top = fmaxf(state.max[block][i], max_over_keys(fmaxf(low, high)));
      shrink[i] = exp2_fast(state.max[block][i] - top);
      state.max[block][i] = top;
      low = exp2_fast(low - top);
      high = exp2_fast(high - top);
    }
    const unsigned near = pack_bf16(scores[block][0], scores[block][1]), far = pack_bf16(scores[block][2], scores[block][3]);
    state.mass[block][0] = state.mass[block][0] * shrink[0] + (low_of(near) + low_of(far));
    state.mass[block][1] = state.mass[block][1] * shrink[1] + (high_of(near) + high_of(far));
    weights[block][0] = transpose(near);
    weights[block][1] = transpose(far);
#pragma unroll
    for (int step = 0; step < D / 16; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i) state.sums[block][step][i] *= shrink[i % 2];
  }
  v += Rows::at(lane / 16 * 8 + lane % 8, lane / 8 % 2) * 16;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    unsigned values[4];
    load_transposed(values, Rows::ahead(v, 2 * step));
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
      multiply_add(state.sums[block][step], values, weights[block][0], weights[block][1]);
  }
}

// A head's numbers over part of its keys.
struct Partial {
  float max, mass;
  float4 sum;  // of four dims
};
__device__ void add(Partial& all, float max, float mass, float4 sum) {
  const float top = fmaxf(all.max, max), old = exp2_fast(all.max - top), young = exp2_fast(max - top);
  all = {top, all.mass * old + mass * young,
         {all.sum.x * old + sum.x * young, all.sum.y * old + sum.y * young, all.sum.z * old + sum.z * young,
          all.sum.w * old + sum.w * young}};
}

// The workspace: kPrefillWorkspaceBytes that are not its, counters [CTAs], stats [2 CTAs][16 heads] float2, sums
// [2 CTAs][16 heads][D] float. A CTA writes at most two partials: of the head that it found begun (slot 2 cta), and of the
// one that it leaves unfinished (2 cta + 1).
struct Workspace {
  int* counters;
  float2* stats;
  float* sums;

  __device__ Workspace(void* base, int num_ctas) {
    counters = static_cast<int*>(base) + kPrefillWorkspaceBytes / sizeof(int);
    stats = reinterpret_cast<float2*>(counters + (num_ctas + 3) / 4 * 4);
    sums = reinterpret_cast<float*>(stats + 2 * num_ctas * 2 * kHeads);
  }
};

template <int D>
__device__ void store(const AttendLaunch& a, int seq, int head, int dim, const Partial& p) {
  const float scale = 1 / p.mass;
  const unsigned words[2] = {pack_bf16(p.sum.x * scale, p.sum.y * scale), pack_bf16(p.sum.z * scale, p.sum.w * scale)};
  __nv_bfloat16* out = static_cast<__nv_bfloat16*>(a.out) +
                       (std::int64_t{a.query_start[seq]} * a.num_heads + head) * D + dim;
  *reinterpret_cast<uint2*>(out) = make_uint2(words[0], words[1]);
}

// The last CTA to come adds up a head's partials, in the order of the list.
template <int D>
__device__ void merge_ctas(const AttendLaunch& a, const Plan& plan, const Workspace& work, const Segment& s,
                           int first_head, int num_heads, int* last_one) {
  const int first_cta = s.unit / plan.share, last_cta = (s.unit + s.num_units - 1) / plan.share;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    *last_one = atomicAdd(work.counters + first_cta, 1) == last_cta - first_cta;
    if (*last_one) work.counters[first_cta] = 0;  // for the next launch
  }
  __syncthreads();
  if (!*last_one) return;
  __threadfence();
  for (int i = threadIdx.x; i < num_heads * (D / 4); i += kThreads) {
    const int head = i / (D / 4), dim = i % (D / 4) * 4;
    Partial all{-INFINITY, 0, {0, 0, 0, 0}};
#pragma unroll 4
    for (int cta = first_cta; cta <= last_cta; ++cta) {
      const int slot = (2 * cta + (cta == first_cta)) * 2 * kHeads + head;
      const float2 stat = __ldcg(work.stats + slot);
      if (stat.y == 0) continue;  // an empty segment
      add(all, stat.x, stat.y, __ldcg(reinterpret_cast<const float4*>(work.sums + std::int64_t{slot} * D + dim)));
    }
    store<D>(a, s.seq, first_head + head, dim, all);
  }
}

// Adds up the warps' states in their order; to `out` where the head is whole, else to the workspace.
template <int D, int kBlocks>
__device__ void end_segment(const AttendLaunch& a, const Plan& plan, const Segment& s, int first_head, int num_heads,
                            State<D, kBlocks>& state, float* sums, float2* stats, int* last_one) {
  constexpr int kPitch = Shape<D>::kSumPitch;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const Workspace work(a.workspace, gridDim.x);
  const int cta_slot = 2 * static_cast<int>(blockIdx.x) + (s.starts ? 1 : 0);
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    if (block * kHeads >= num_heads) break;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float mass = sum_over_keys(state.mass[block][i]);
      if (lane < 4) stats[warp * 2 * kHeads + block * kHeads + 2 * lane + i] = {state.max[block][i], mass};
    }
    // Dims of different heads go to different banks.
#pragma unroll
    for (int step = 0; step < D / 16; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int head = lane % 4 * 2 + i % 2, dim = step * 16 + lane / 4 + i / 2 * 8;
        sums[(warp * kHeads + head) * kPitch + (dim ^ (lane % 4 * 8))] = state.sums[block][step][i];
      }
    __syncthreads();
    const int num_here = min(kHeads, num_heads - block * kHeads);
    for (int i = threadIdx.x; i < num_here * (D / 4); i += kThreads) {
      const int head = i / (D / 4), dim = i % (D / 4) * 4;
      Partial all{-INFINITY, 0, {0, 0, 0, 0}};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float2 stat = stats[w * 2 * kHeads + block * kHeads + head];
        if (stat.y == 0) continue;  // no key of this segment was this warp's
        add(all, stat.x, stat.y,
            *reinterpret_cast<const float4*>(sums + (w * kHeads + head) * kPitch + (dim ^ (head / 2 * 8))));
      }
      const int local = block * kHeads + head;
      if (s.starts && s.ends) {
        store<D>(a, s.seq, first_head + local, dim, all);
      } else {
        const int slot = cta_slot * 2 * kHeads + local;
        if (dim == 0) work.stats[slot] = {all.max, all.mass};
        *reinterpret_cast<float4*>(work.sums + std::int64_t{slot} * D + dim) = all.sum;
      }
    }
    __syncthreads();
  }
  if (!(s.starts && s.ends)) merge_ctas<D>(a, plan, work, s, first_head, num_heads, last_one);
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
