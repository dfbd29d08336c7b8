// The arithmetic of decode attention: what a warp holds over a run of chunks, and how a chunk joins it. Turned round (attend_decode.cu):
// keys and dims are rows, query heads columns.
#pragma once

#include "attend_decode_shape.cuh"

namespace fastgen::device::decode {

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

__device__ inline float max_over_keys(float x) {
  for (int offset = 4; offset < kWarp; offset *= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}
__device__ inline float sum_over_keys(float x) {
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

}  // namespace fastgen::device::decode
