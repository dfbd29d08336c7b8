// Products of few rows, up to 16: bound by reading the weights once. Those of one row are narrow_kernel.cu's.
//
// A block owns 32 rows of weights at a time (two tiles of 16) and its warps share their K, 64 elements in turn, so
// that the block reads runs of 1 or 2 KB. The weights go straight from memory to the A operand of mma.m16n8k16, x is the B operand, 8 of
// its rows a tile. A sum over K may run in any order as long as both operands agree: thread t of a quad takes the 16 bytes
// at k = 8t of each 32, which fill its places in two mma. Nothing passes through shared memory but the warps' partial sums, added in
// a fixed order: results do not depend on timing.
//
// Each thread holds two steps of weights in registers (128 KB an SM in flight). They are requested before wait_for_previous(), and
// again across the border between a block's tiles, so that memory stays busy through the small kernels in between and through the
// sums.
//
// Measured on an H200 (gpu-ops.json), 16 rows, Mistral 7B's shapes, each alone with caches cold: gate-up 67 us (3.5 TB/s), QKV 18, O 12,
// down 34. cuBLASLt needs 18 us for QKV at 64 rows.
//
// Tried and slower: asking L2 for two or four further steps before the wait.
#include <algorithm>
#include <climits>

#include "device_math.cuh"
#include "launch.cuh"
#include "mma.cuh"
#include "narrow_kernel.h"
#include "skinny_epilogue.cuh"

namespace fastgen::device {

namespace {

static_assert(kSkinnyRowsMax == kFewRowsMax);
constexpr int kWarpsPerSm = 16;  // one block, or two of half the warps where there are many tiles
constexpr int kTileRows = 32;
constexpr int kStep = 64;       // elements of K that a warp multiplies at once

struct Geometry {
  std::int32_t num_tiles;
  std::int32_t rows_apart;  // between the tile's two runs of 16 rows
  std::int32_t row_bound;   // rows from here on do not exist
};

// First row of the tile's first run of 16.
struct PlainTiles {
  __device__ int operator()(int tile) const { return tile * kTileRows; }
};
struct GateUpTiles {
  __device__ int operator()(int tile) const { return tile * 16; }
};
struct HeadTiles {
  int per_head, head_dim;
  __device__ int operator()(int tile) const { return tile / per_head * head_dim + tile % per_head * 16; }
};

// One warp's step of weights: [half of the step][tile of 16][row g or g + 8].
struct WeightStep {
  uint4 v[2][2][2];
};
// x for the same step: [half of the step][8 rows of x].
template <int kColTiles>
struct InputStep {
  uint4 v[2][kColTiles];
};
template <int kColTiles>
struct Sums {
  float v[2][kColTiles][4];
};

// Walks a warp's steps through all tiles of its block, for the loads, which run ahead of the products.
template <int kWarps, typename Tiles>
struct Cursor {
  const SkinnyProduct& a;
  const Geometry& geometry;
  const Tiles& tiles;
  int per_tile;  // steps of a warp in a tile
  int tile = blockIdx.x, step = 0;

  __device__ int k() const { return (step * kWarps + static_cast<int>(threadIdx.x) / kWarp) * kStep; }
  __device__ void advance() {
    if (++step == per_tile) step = 0, tile += gridDim.x;
  }
  __device__ void load(WeightStep& w) const {
    const int lane = threadIdx.x % kWarp, at = k() + lane % 4 * 8, row = tiles(tile) + lane / 4;
    const std::int64_t stride = a.in_dim;
    const __nv_bfloat16* from = static_cast<const __nv_bfloat16*>(a.w) + row * stride + at;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int half = i / 4, apart = i / 2 % 2 * geometry.rows_apart + i % 2 * 8;
      const bool there =
          tile < geometry.num_tiles && at + half * 32 < a.in_dim && row + apart < geometry.row_bound;
      w.v[half][i / 2 % 2][i % 2] = there ? load_once(from + apart * stride + half * 32) : uint4{};
    }
  }
};

template <int kWarps, int kColTiles>
__device__ void load_input(const SkinnyProduct& a, int step, InputStep<kColTiles>& x) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int at = (step * kWarps + warp) * kStep + lane % 4 * 8;
#pragma unroll
  for (int i = 0; i < 2 * kColTiles; ++i) {
    const int half = i / kColTiles, row = i % kColTiles * 8 + lane / 4;
    const bool there = row < a.num_rows && at + half * 32 < a.in_dim;
    const uint4* from = reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.x) +
                                                       row * std::int64_t{a.in_dim} + at + half * 32);
    x.v[half][i % kColTiles] = there ? *from : uint4{};
  }
}

template <int kColTiles>
__device__ void multiply(Sums<kColTiles>& sums, const WeightStep& w, const InputStep<kColTiles>& x) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const uint4 low = w.v[half][m][0], high = w.v[half][m][1];
#pragma unroll
      for (int n = 0; n < kColTiles; ++n) {
        const uint4 b = x.v[half][n];
        multiply_add(sums.v[m][n], {low.x, high.x, low.y, high.y}, b.x, b.y);
        multiply_add(sums.v[m][n], {low.z, high.z, low.w, high.w}, b.z, b.w);
      }
    }
  }
}

// partial [warps][32 rows of the tile][columns]
template <int kWarps, int kColTiles>
using Partial = float[kWarps][kTileRows][8 * kColTiles];

template <int kWarps, int kColTiles>
__device__ void put(Partial<kWarps, kColTiles>& partial, const Sums<kColTiles>& sums) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < kColTiles; ++n) {
      const float(&c)[4] = sums.v[m][n];
      const int row = m * 16 + lane / 4, col = n * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(&partial[warp][row][col]) = {c[0], c[1]};
      *reinterpret_cast<float2*>(&partial[warp][row + 8][col]) = {c[2], c[3]};
    }
  }
}

template <int kWarps, int kColTiles>
__device__ float total(const Partial<kWarps, kColTiles>& partial, int row, int col) {
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += partial[w][row][col];
  return sum;
}

template <int kWarps, int kColTiles, typename Epilogue>
__device__ void finish(const SkinnyProduct& a, const Epilogue& epilogue, int tile,
                       Partial<kWarps, kColTiles>& partial, Sums<kColTiles>& sums) {
  constexpr int kCols = 8 * kColTiles, kOutputs = kCols * (Epilogue::kPairs ? 16 : kTileRows);
  constexpr int kThreads = kWarps * kWarp, kEach = (kOutputs + kThreads - 1) / kThreads;
  const auto row = [](int i) { return static_cast<int>(threadIdx.x + i * kThreads) / kCols; };
  const int col = threadIdx.x % kCols;  // kCols divides kThreads
  const bool mine = threadIdx.x < kOutputs && col < a.num_rows;
  const int first_output = tile * (Epilogue::kPairs ? 16 : kTileRows);
  typename Epilogue::Ahead held[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    if (mine) held[i] = epilogue.ahead(first_output + row(i), col);
  __syncthreads();  // the sums of the tile before have been read
  put<kWarps, kColTiles>(partial, sums);
  __syncthreads();
  sums = {};
  if (!mine) return;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const float first = total<kWarps, kColTiles>(partial, row(i), col);
    const float second = Epilogue::kPairs ? total<kWarps, kColTiles>(partial, row(i) + 16, col) : 0.0f;
    epilogue.store(first_output + row(i), col, first, second, held[i]);
  }
}

template <int kWarps, int kColTiles, typename Tiles, typename Epilogue>
__global__ void __launch_bounds__(kWarps* kWarp, kWarpsPerSm / kWarps)
    skinny_kernel(SkinnyProduct a, Geometry geometry, Tiles tiles, Epilogue epilogue) {
  __shared__ Partial<kWarps, kColTiles> partial;
  const int per_tile = (a.in_dim + kStep * kWarps - 1) / (kStep * kWarps);
  Cursor<kWarps, Tiles> cursor{a, geometry, tiles, per_tile};
  WeightStep even, odd;
  cursor.load(even), cursor.advance();
  cursor.load(odd), cursor.advance();
  wait_for_previous();
  let_next_start();

  int tile = blockIdx.x, step = 0;
  InputStep<kColTiles> x;
  load_input<kWarps>(a, 0, x);
  Sums<kColTiles> sums{};
  // False when the block has finished its last tile.
  const auto turn = [&](WeightStep& w) {
    multiply(sums, w, x);
    cursor.load(w), cursor.advance();
    if (++step < per_tile) return load_input<kWarps>(a, step, x), true;
    load_input<kWarps>(a, 0, x);
    finish<kWarps, kColTiles>(a, epilogue, tile, partial, sums);
    step = 0, tile += gridDim.x;
    return tile < geometry.num_tiles;
  };
  while (turn(even) && turn(odd)) {
  }
}

template <int kWarps, typename Tiles, typename Epilogue>
void run_with(const SkinnyProduct& a, const Geometry& geometry, const Tiles& tiles, const Epilogue& epilogue,
              cudaStream_t stream) {
  const int most = kWarpsPerSm / kWarps * card().num_sms;
  LaunchShape shape{static_cast<unsigned>(std::min(geometry.num_tiles, most)), kWarps * kWarp};
  shape.shared_percent = kHalfShared;
  if (a.num_rows <= 8) {
    launch(skinny_kernel<kWarps, 1, Tiles, Epilogue>, shape, stream, a, geometry, tiles, epilogue);
  } else {
    launch(skinny_kernel<kWarps, 2, Tiles, Epilogue>, shape, stream, a, geometry, tiles, epilogue);
  }
}

template <typename Tiles, typename Epilogue>
void run(const SkinnyProduct& a, const Geometry& geometry, const Tiles& tiles, const Epilogue& epilogue,
         cudaStream_t stream) {
  if (geometry.num_tiles > card().num_sms) {
    run_with<8>(a, geometry, tiles, epilogue, stream);
  } else {
    run_with<16>(a, geometry, tiles, epilogue, stream);
  }
}

}  // namespace

void skinny_linear(const SkinnyProduct& a, const float* bias, void* out, bool out_bf16, bool add,
                   cudaStream_t stream) {
  if (narrow_serves(a)) return narrow_linear(a, bias, out, out_bf16, add, stream);
  const Geometry geometry{(a.out_dim + kTileRows - 1) / kTileRows, 16, a.out_dim};
  if (out_bf16) {
    const LinearEpilogue<__nv_bfloat16> epilogue{bias, static_cast<__nv_bfloat16*>(out), add, a.out_dim};
    run(a, geometry, PlainTiles{}, epilogue, stream);
  } else {
    const LinearEpilogue<float> epilogue{bias, static_cast<float*>(out), add, a.out_dim};
    run(a, geometry, PlainTiles{}, epilogue, stream);
  }
}

void skinny_gate_up(const SkinnyProduct& a, void* out, cudaStream_t stream) {
  if (narrow_serves(a)) return narrow_gate_up(a, out, stream);
  const std::int32_t ffn_dim = a.out_dim / 2;
  run(a, {ffn_dim / 16, ffn_dim, INT_MAX}, GateUpTiles{},
      GateUpEpilogue{static_cast<__nv_bfloat16*>(out), ffn_dim}, stream);
}

void skinny_qkv(const SkinnyProduct& a, const RopeLaunch& rope, cudaStream_t stream) {
  if (narrow_serves(a)) return narrow_qkv(a, rope, stream);
  const int half = rope.layout.head_dim / 2;
  run(a, {a.out_dim / kTileRows, half, INT_MAX}, HeadTiles{half / 16, rope.layout.head_dim}, RopeEpilogue{rope}, stream);
}

}  // namespace fastgen::device
