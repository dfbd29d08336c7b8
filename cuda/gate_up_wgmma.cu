// Gate-up of many rows on sm_90a, with SiLU: the [T, 2F] that a product leaves for it is neither written nor read.
//
// Blocks have an SM each and work in clusters of two, which take units one after the other (gate_up_tiles.h). A block's part is 128 rows, 64
// for each of two warpgroups, by 128 rows of gate and the same of up, which are one operand of 256: a thread holds the gate and the up
// of the same places. Both blocks need those weights: each copies one half of them to both. One thread keeps copies running (TMA, a ring of
// four stages of 64 along K); its first weights are on their way before the kernel before has ended.
//
// Measured on an H200 by a program of its own at the power limit, which has no record, beside cuBLASLt's best product and SiLU after it, us
// with F = 14,336 and K = 4,096: 256 rows 107 (112), 512 191 (197), 1,024 367 (377), 1,280 450 (475), 2,048 727 (742), 4,096 1,435 (1,485),
// 8,192 2,857 (2,930), 32,768 11,380 (11,595); prompts of Mistral 7B are 0.9 % faster in steps of 32,768 (no record either). Tensor cores are busy for 94 % of
// the cycles there, at 1.35 GHz.
// Tried, all without gain: warpgroups a few stages apart, so that one multiplies while the other stores; clusters of four (120 of 132 SMs find
// a place: 1-2 % slower); hints to L2 what to keep; one arrival a warpgroup; tiles of 128 or 64 rows for the rest of a number that is no multiple
// of 256, where the other block has other columns (4-8 % slower than the library).
#include <algorithm>
#include <optional>

#include "device_math.cuh"
#include "gate_up_tiles.h"
#include "gate_up_wgmma.h"
#include "hopper.cuh"
#include "tensor_map.h"
#include "wgmma.cuh"

namespace fastgen::device {

namespace {

using Part = GateUpTiles::Part;

constexpr int kRows = GateUpTiles::kRows, kColumns = GateUpTiles::kColumns, kDepth = kSwizzleElements, kStages = 4, kBlocks = 2;
constexpr int kConsumers = 2, kThreads = (1 + kConsumers) * kWarpgroup;  // the first warpgroup loads
constexpr int kLoadRegisters = 40, kConsumerRegisters = 232;
constexpr int kBoxRows = kRows / kConsumers, kBoxBytes = kBoxRows * kSwizzleBytes;  // of x and of out: a warpgroup's rows
constexpr int kXBytes = kConsumers * kBoxBytes, kHalfBytes = kColumns * kSwizzleBytes, kStageBytes = kXBytes + 2 * kHalfBytes;
constexpr int kPanels = kColumns / kSwizzleElements;  // of out

struct Maps {
  CUtensorMap x, w, out;
};

// Shared memory: stages, each x [2][64, 64], gate [128, 64], up [128, 64]; out [2 warpgroups][2 panels][64, 64]; barriers.
struct Memory {
  static constexpr int kOut = kStages * kStageBytes, kBarriers = kOut + kConsumers * kPanels * kBoxBytes;
  static constexpr int kBytes = kBarriers + 2 * kStages * 8 + 1024;  // 1024: it is aligned within
  unsigned base;

  __device__ unsigned x(int stage) const { return base + stage * kStageBytes; }
  __device__ unsigned w(int stage) const { return x(stage) + kXBytes; }
  __device__ unsigned out(int consumer) const { return base + kOut + consumer * (kPanels * kBoxBytes); }
  __device__ unsigned full(int stage) const { return base + kBarriers + stage * 8; }
  __device__ unsigned empty(int stage) const { return full(kStages + stage); }

  // A stage is empty when no warp of the two blocks reads it, since both copy to both.
  __device__ void init_barriers() const {
    for (int i = 0; i < kStages; ++i)
      init_barrier(full(i), 1), init_barrier(empty(i), kBlocks * kConsumers * (kWarpgroup / kWarp));
    publish_barriers();
  }
};

// The thread that copies.
struct Loader {
  const GateUpTiles& tiles;
  const Maps& maps;
  const Memory& memory;
  int ffn_dim, num_steps, rank;

  __device__ void run() const {
    const int first = blockIdx.x / kBlocks;
    int early = min(kStages, num_steps);  // whose weights are on their way
    for (int step = 0; step < early; ++step) load_weights(step, step, tiles.part(first, rank));
    wait_for_previous();
    let_next_start();
    Ring<kStages> stage;
    for (int unit = first; unit < tiles.num_units(); unit += gridDim.x / kBlocks) {
      const Part part = tiles.part(unit, rank);
      for (int step = 0; step < num_steps; ++step, stage.advance()) {
        wait_barrier(memory.empty(stage.at), stage.parity ^ 1);
        if (early > 0) --early;
        else load_weights(stage.at, step, part);
        for (int row = 0; row < part.num_rows; row += kBoxRows)
          load_box(memory.x(stage.at) + row * kSwizzleBytes, maps.x, step * kDepth, part.row + row, memory.full(stage.at));
      }
    }
  }
  // And says how much the stage waits for: x and both halves of the weights.
  __device__ void load_weights(int stage, int step, const Part& part) const {
    expect_bytes(memory.full(stage), part.num_rows * kSwizzleBytes + 2 * kHalfBytes);
    load_box_for((1u << kBlocks) - 1, memory.w(stage) + rank * kHalfBytes, maps.w, step * kDepth, rank * ffn_dim + part.column,
                 memory.full(stage));
  }
};

// A warpgroup that computes.
class Consumer {
 public:
  __device__ Consumer(const GateUpTiles& all, const Maps& tensor_maps, const Memory& places, int steps, int block)
      : tiles(all), maps(tensor_maps), memory(places), num_steps(steps), rank(block) {}

  __device__ void run() {
    for (int unit = blockIdx.x / kBlocks; unit < tiles.num_units(); unit += gridDim.x / kBlocks) {
      const Part part = tiles.part(unit, rank);
      if (number * kBoxRows >= part.num_rows) {
        skip();
        continue;
      }
      float sums[kColumns];
      multiply_rows(sums);
      store(part, sums);
    }
    if (thread == 0) wait_boxes();
  }

 private:
  const GateUpTiles& tiles;
  const Maps& maps;
  const Memory& memory;
  const int num_steps, rank;
  const int number = threadIdx.x / kWarpgroup - 1, thread = threadIdx.x % kWarpgroup, lane = threadIdx.x % kWarp;
  Ring<kStages> stage;

  __device__ void give_back(int at) const {
    __syncwarp();
    if (lane < kBlocks) arrive_in(lane, memory.empty(at));
  }
  // The other warpgroup has all rows of this part.
  __device__ void skip() {
    for (int step = 0; step < num_steps; ++step, stage.advance()) {
      wait_barrier(memory.full(stage.at), stage.parity);
      give_back(stage.at);
    }
  }

  // sums: of gate, then of up, as wgmma.cuh lays out rows of 256.
  __device__ void multiply_rows(float (&sums)[kColumns]) {
    int before = 0;
    for (int step = 0; step < num_steps; ++step, stage.advance()) {
      wait_barrier(memory.full(stage.at), stage.parity);
      const std::uint64_t rows = matrix_descriptor(memory.x(stage.at) + number * kBoxBytes), weights = matrix_descriptor(memory.w(stage.at));
      pin(sums);
      begin_products();
#pragma unroll
      for (int i = 0; i < kDepth / 16; ++i) multiply(sums, rows + 2 * i, weights + 2 * i, step + i > 0);
      commit_products();
      if (step > 0) {
        wait_products<1>();
        give_back(before);
      }
      before = stage.at;
    }
    wait_products<0>();
    pin(sums);
    give_back(before);
  }

  __device__ void store(const Part& part, const float (&sums)[kColumns]) const {
    if (thread == 0) wait_boxes_read();
    named_barrier(1 + number, kWarpgroup);
    const int row = thread / kWarp * 16 + lane % 16;  // whose address this lane gives
    const unsigned to = memory.out(number) + row * kSwizzleBytes;
#pragma unroll
    for (int piece = 0; piece < kColumns / 8; piece += 2) {  // of eight columns
      unsigned pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float *gate = &sums[4 * piece + 2 * i], *up = gate + kColumns / 2;
        pairs[i] = pack_bf16(silu(gate[0]) * up[0], silu(gate[1]) * up[1]);
      }
      const int mine = piece + lane / 16;
      store_matrices(to + mine / 8 * kBoxBytes + ((mine ^ row) & 7) * 16, pairs);
    }
    publish_stores();
    named_barrier(1 + number, kWarpgroup);
    if (thread != 0) return;
    for (int panel = 0; panel < kPanels; ++panel)
      store_box(maps.out, part.column + panel * kSwizzleElements, part.row + number * kBoxRows, memory.out(number) + panel * kBoxBytes);
    commit_boxes();
  }
};

__global__ void __launch_bounds__(kThreads, 1)
    gate_up_kernel(GateUpTiles tiles, int ffn_dim, int num_steps, const __grid_constant__ Maps maps) {
#ifdef FG_HOPPER
  extern __shared__ unsigned char shared[];
  const Memory memory{(shared_address(shared) + 1023) / 1024 * 1024};
  const int rank = cluster_rank();
  if (threadIdx.x == 0) {
    prefetch_map(maps.x), prefetch_map(maps.w), prefetch_map(maps.out);
    memory.init_barriers();
  }
  sync_cluster();
  if (threadIdx.x < kWarpgroup) {
    give_registers<kLoadRegisters>();
    if (threadIdx.x == 0) Loader{tiles, maps, memory, ffn_dim, num_steps, rank}.run();
  } else {
    take_registers<kConsumerRegisters>();
    Consumer(tiles, maps, memory, num_steps, rank).run();
  }
  sync_cluster();  // the other block may still arrive here
#endif
}

// ---- host

bool fits() {
  return has_hopper() && device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) >= Memory::kBytes &&
         cudaFuncSetAttribute(gate_up_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Memory::kBytes) == cudaSuccess;
}

// Rows that are none are computed too: beyond 1 of 64 they cost what SiLU in the product saves.
bool fills_units(int num_rows) {
  const int beyond = num_rows % (kBlocks * kRows);
  return beyond == 0 || kBlocks * kRows - beyond <= num_rows / 64;
}

}  // namespace

bool gate_up_wgmma(const GateUpLaunch& a, cudaStream_t stream) {
  static const bool serves = fits();
  if (!serves || a.ffn_dim % kColumns != 0 || a.in_dim % kDepth != 0 || !fills_units(a.num_rows)) return false;
  const std::optional<CUtensorMap> x = row_map(a.x, a.num_rows, a.in_dim, kBoxRows), w = row_map(a.w, 2 * a.ffn_dim, a.in_dim, kColumns),
                                   out = row_map(a.out, a.num_rows, a.ffn_dim, kBoxRows);
  if (!x || !w || !out) return false;
  const int num_clusters = card().num_sms / kBlocks;
  const GateUpTiles tiles(a.num_rows, a.ffn_dim, std::int64_t{a.in_dim} * 2, num_clusters);
  const auto num_blocks = static_cast<unsigned>(kBlocks * std::min(tiles.num_units(), num_clusters));
  launch(gate_up_kernel, {num_blocks, kThreads, Memory::kBytes, kBlocks}, stream, tiles, a.ffn_dim, a.in_dim / kDepth, Maps{*x, *w, *out});
  return true;
}

}  // namespace fastgen::device
