// The ends of decode attention's runs: the warps' states become one, and the runs of a head that several CTAs share become one by whoever
// comes last.
#pragma once

#include "attend_decode_state.cuh"

namespace fastgen::device::decode {

// A head's numbers over part of its keys.
struct Partial {
  float max, mass;
  float4 sum;  // of four dims
};
__device__ inline void add(Partial& all, float max, float mass, float4 sum) {
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

}  // namespace fastgen::device::decode
