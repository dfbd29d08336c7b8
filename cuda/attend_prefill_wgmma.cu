// Prefill attention on sm_90a: head_dim 64 and 128, blocks of 64 keys or a multiple. Rows, tiles and their order are those of
// attend_prefill.cu; the structure is FlashAttention-3's (Shah et al. 2024).
//
// One block a SM takes tiles one after the other from a counter. Of its warpgroups the first loads, warp by warp: warp 0 keeps copies
// of K and V running (TMA through the block table, into rings of stages), warps 1 and 2 load the rows of q, warp 3 finds the tiles; all
// are up to one tile ahead of the others. Each other warpgroup owns 64 rows. While its scores become weights, the product of the weights
// before them with V runs. Keys are taken from the last to the first, 128 at a time: what is masked comes first.
//
// Measured on an H200, 32 heads, 8 KV heads, TFLOP/s beside attend_prefill.cu's. D = 128 (gpu-ops.json; gpu-ops-first.json): 8 x 1024 339
// (258), 8 x 1024 of 2048 493 (323), 1 x 2048 of 16384 560 (353). By a program of its own, which has no record: 4 x 4096 573 (335), 2 x 512 of
// 1024 286 (204); D = 64, the five in turn, 251 (198), 366 (257), 407 (290), 402 (272), 194 (154). Known to be weak: 8 x 1024, where the first
// tile of keys is mostly masked; few rows against a long context, which is not split along the context.
//
// Tried with that program, each right by its tests, and how much longer they took (half of the first tile of keys where the rest is masked for
// a warpgroup: nothing; the mass of the rounded weights, added up by the threads or by the tensor cores, by `fgbench op`: 2-7 %):
//   D = 128  warpgroups that take turns in starting products, as FlashAttention-3's do   4-6 %
//            64 keys, 4 stages, turns                                                    7-21 %
//            three warpgroups, 64 keys, 3 stages (16 bytes spilled)                      0-8 %, 2 x 512 30 %; with turns 2-10 %, 2 x 512 30 %
//   D = 64   2 stages, turns                                                             6-13 %
//            three warpgroups, 3 stages, turns (8 bytes spilled)                         9 % less, 8 x 1024 0 %, 2 x 512 22 % more
#include <algorithm>
#include <limits>
#include <optional>

#include "attend_wgmma_load.cuh"
#include "tensor_map.h"
#include "wgmma.cuh"

namespace fastgen::device {

namespace {

using namespace prefill;

// ---- the warpgroups that compute

// What a thread keeps of its two rows.
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY};  // of the unscaled scores
  float mass[2] = {0, 0};                 // this thread's keys alone
  float shrink[2];                        // what the sums so far are to be multiplied by
};

template <typename S>
class Consumer {
 public:
  static constexpr int D = S::D, kKeys = S::kKeys;

  __device__ Consumer(const AttendLaunch& launch, const Memory<S>& places) : a(launch), memory(places) {}

  __device__ void run() {
    for (Ring<kSlots> slot;; slot.advance()) {
      wait_barrier(memory.tile_full(slot.at), slot.parity);
      const Tile& tile = memory.tile(slot.at);
      if (tile.seq < 0) return;
      float sums[D / 2];
#pragma unroll
      for (float& sum : sums) sum = 0;
      Softmax softmax;
      wait_barrier(memory.q_full(slot.at), slot.parity);
      const KeyTiles<kKeys> tiles(tile);
      if (tiles.count > 0) attend_keys(tile, tiles, memory.q(slot.at), softmax, sums);
      store(tile, softmax, sums);
      arrive(memory.slot_empty(slot.at));
    }
  }

 private:
  const AttendLaunch& a;
  const Memory<S>& memory;
  const int number = threadIdx.x / kWarpgroup - 1, lane = threadIdx.x % kWarp;
  const int my_row = number * 64 + threadIdx.x % kWarpgroup / kWarp * 16 + lane / 4;  // and + 8
  Ring<S::kStages> k_stage, v_stage;

  __device__ void give_back(unsigned empty) const {
    __syncwarp();
    if (lane == 0) arrive(empty);
  }

  __device__ void attend_keys(const Tile& tile, const KeyTiles<kKeys>& tiles, unsigned q, Softmax& softmax, float (&sums)[D / 2]) {
    const float scale = a.scale * kLog2E;
    const Span first_span = tile.span(number * 64), last_span = tile.span(number * 64 + 63);
    const Span all{last_span.begin, first_span.end};  // what all rows of the warpgroup see
    const Span mine[2] = {tile.span(my_row), tile.span(my_row + 8)};
    float scores[kKeys / 2];
    unsigned weights[kKeys / 16][4];

    wait_barrier(memory.k_full(k_stage.at), k_stage.parity);
    pin(scores), pin(sums);
    begin_products();
    start_scores(q, scores);
    wait_products<0>();
    pin(scores);
    give_back(memory.k_empty(k_stage.at));
    k_stage.advance();
    int first = tiles.first(tiles.count - 1);
    mask(all, mine, first, scores);
    soften(scale, scores, softmax);
    pack(scores, weights);
    if (first + kKeys > tile.context) clear_values(tile.context - first);
    if (tiles.count > 1) wait_barrier(memory.k_full(k_stage.at), k_stage.parity);
    for (int i = tiles.count - 2; i >= 0; --i) {
      first -= kKeys;
      pin(scores), pin(sums), pin(weights);
      begin_products();
      start_scores(q, scores);
      wait_barrier(memory.v_full(v_stage.at), v_stage.parity);
      start_sums(weights, sums);
      wait_products<1>();
      pin(scores);
      give_back(memory.k_empty(k_stage.at));
      k_stage.advance();
      mask(all, mine, first, scores);
      soften(scale, scores, softmax);
      pin(scores);
      // Here, since the assembler moves a wait for products up to the last branch: without one the weights are computed after that wait.
      if (i > 0) wait_barrier(memory.k_full(k_stage.at), k_stage.parity);
      wait_products<0>();
      pin(sums), pin(weights);
      give_back(memory.v_empty(v_stage.at));
      v_stage.advance();
      shrink(softmax, sums);
      pack(scores, weights);
    }
    wait_barrier(memory.v_full(v_stage.at), v_stage.parity);
    pin(sums), pin(weights);
    begin_products();
    start_sums(weights, sums);
    wait_products<0>();
    pin(sums);
    give_back(memory.v_empty(v_stage.at));
    v_stage.advance();
  }

  // scores = q K^T
  __device__ void start_scores(unsigned q, float (&scores)[kKeys / 2]) const {
    const std::uint64_t rows = matrix_descriptor(q + number * (64 * D * 2)), keys = matrix_descriptor(memory.k(k_stage.at));
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      const int panel = step / 4, within = step % 4 * 2;
      multiply(scores, rows + (panel * (S::kQPanelBytes / 16) + within), keys + (panel * (S::kPanelBytes / 16) + within), step > 0);
    }
    commit_products();
  }
  // sums += weights V
  __device__ void start_sums(const unsigned (&weights)[kKeys / 16][4], float (&sums)[D / 2]) const {
    const std::uint64_t values = transposed_descriptor(memory.v(v_stage.at), S::kPanelBytes);
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) multiply_transposed(sums, weights[step], values + step * (16 * kSwizzleBytes / 16));
    commit_products();
  }

  __device__ void mask(const Span& all, const Span (&mine)[2], int first, float (&scores)[kKeys / 2]) const {
    if (first + kKeys > all.end) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i)
        if (key_of(i) >= mine[i / 2 % 2].end - first) scores[i] = -INFINITY;
    }
    if (first < all.begin) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i)
        if (key_of(i) < mine[i / 2 % 2].begin - first) scores[i] = -INFINITY;
    }
  }
  __device__ int key_of(int i) const { return i / 4 * 8 + i % 2 + lane % 4 * 2; }

  __device__ void soften(float scale, float (&scores)[kKeys / 2], Softmax& softmax) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = softmax.max[half];
#pragma unroll
      for (int i = 2 * half; i < kKeys / 2; i += 4) top = fmaxf(top, fmaxf(scores[i], scores[i + 1]));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      const float base = top == -INFINITY ? 0.0f : top * scale;  // a row that has seen nothing yet keeps weights of zero
      softmax.shrink[half] = exp2_fast(softmax.max[half] * scale - base);
      softmax.max[half] = top;
      float mass[2] = {0, 0};
#pragma unroll
      for (int i = 2 * half; i < kKeys / 2; i += 4)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          scores[i + j] = exp2_fast(scores[i + j] * scale - base);
          mass[j] += scores[i + j];
        }
      softmax.mass[half] = softmax.mass[half] * softmax.shrink[half] + (mass[0] + mass[1]);
    }
  }
  __device__ void shrink(const Softmax& softmax, float (&sums)[D / 2]) const {
#pragma unroll
    for (int i = 0; i < D / 2; ++i) sums[i] *= softmax.shrink[i / 2 % 2];
  }
  __device__ void pack(const float (&scores)[kKeys / 2], unsigned (&weights)[kKeys / 16][4]) const {
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) weights[i / 4][i % 4] = pack_bf16(scores[2 * i], scores[2 * i + 1]);
  }

  // Zeros to the rows of V behind the context, from `row` on: a weight of zero does not silence what is not a number. Each warpgroup writes
  // the same zeros, so that none waits for another.
  __device__ void clear_values(int row) const {
    wait_barrier(memory.v_full(v_stage.at), v_stage.parity);
    unsigned char* const v = memory.bytes + S::kV + v_stage.at * S::kTileBytes;
    const int pieces = (kKeys - row) * (kSwizzleBytes / 16);
#pragma unroll
    for (int panel = 0; panel < S::kPanels; ++panel)
      for (int i = threadIdx.x % kWarpgroup; i < pieces; i += kWarpgroup)
        *reinterpret_cast<uint4*>(v + panel * S::kPanelBytes + row * kSwizzleBytes + i * 16) = make_uint4(0, 0, 0, 0);
    publish_stores();
    named_barrier(1 + number, kWarpgroup);
  }

  // Four threads hold a row's columns 8 j ..; they swap, so that each has all eight of every fourth j and stores 16 bytes.
  __device__ void store(const Tile& tile, const Softmax& softmax, const float (&sums)[D / 2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float mass = softmax.mass[half];
      mass += __shfl_xor_sync(kAllLanes, mass, 1);
      mass += __shfl_xor_sync(kAllLanes, mass, 2);
      const float scale = mass > 0 ? 1 / mass : 0.0f;
      const int row = my_row + 8 * half;
      const bool real = row < tile.num_rows;
      __nv_bfloat16* out = static_cast<__nv_bfloat16*>(a.out) + (real ? tile.offset(a, row) : 0);
#pragma unroll
      for (int j = 0; j < D / 8; j += 4) {
        unsigned pieces[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = &sums[4 * (j + i) + 2 * half];
          pieces[i] = pack_bf16(pair[0] * scale, pair[1] * scale);
        }
        swap(pieces[0], pieces[1], 1), swap(pieces[2], pieces[3], 1);
        swap(pieces[0], pieces[2], 2), swap(pieces[1], pieces[3], 2);
        if (real) *reinterpret_cast<uint4*>(out + (j + lane % 4) * 8) = make_uint4(pieces[0], pieces[1], pieces[2], pieces[3]);
      }
    }
  }
  // Between lanes that differ in `bit`: the lower's second for the upper's first.
  __device__ void swap(unsigned& first, unsigned& second, int bit) const {
    const bool upper = (lane & bit) != 0;
    const unsigned other = __shfl_xor_sync(kAllLanes, upper ? first : second, bit);
    (upper ? first : second) = other;
  }
};

template <typename S>
__global__ void __launch_bounds__(S::kThreads, 1) prefill_kernel(AttendLaunch a, const __grid_constant__ CUtensorMap arena) {
#ifdef FG_HOPPER
  extern __shared__ unsigned char shared[];
  const unsigned base = (shared_address(shared) + 1023) / 1024 * 1024;
  const Memory<S> memory{base, shared + (base - shared_address(shared))};
  if (threadIdx.x == 0) {
    prefetch_map(arena);
    memory.init_barriers();
  }
  __syncthreads();
  wait_for_previous();
  if (threadIdx.x < kWarpgroup) {
    give_registers<S::kLoadRegisters>();
    const int warp = threadIdx.x / kWarp;
    if (warp == 3) find_tiles<S>(a, memory);
    else if (warp > 0) load_queries<S>(a, memory);
    else if (threadIdx.x == 0) load_keys<S>(a, arena, memory);
  } else {
    take_registers<S::kConsumerRegisters>();
    Consumer<S>(a, memory).run();
  }
#endif
}

// ---- host

template <typename S>
bool fits() {
  return has_hopper() && device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) >= S::kBytes &&
         cudaFuncSetAttribute(prefill_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kBytes) == cudaSuccess;
}

template <typename S>
bool launch_tiles(const AttendLaunch& a, cudaStream_t stream) {
  static const bool serves = fits<S>();
  if (!serves || a.layout.block_size % kBoxKeys != 0) return false;
  // The arena's length is not known here, nor needed: coordinates are those of blocks, which fit an int. A map takes about a microsecond to
  // make; one that was kept would have to be known by its arena.
  constexpr std::int64_t kArenaRowsMax = std::numeric_limits<std::int32_t>::max();
  const std::optional<CUtensorMap> map = row_map(a.arena, kArenaRowsMax, S::D, kBoxKeys);
  if (!map) return false;
  // A sequence's last tile may be short, so each adds at most one to the rows' whole tiles.
  const std::int64_t rows = std::int64_t{a.num_tokens} * (a.num_heads / a.layout.num_kv_heads);
  const std::int64_t tiles = (rows / S::kRows + (a.num_seqs - a.num_decode_seqs)) * a.layout.num_kv_heads;
  const auto num_ctas = static_cast<unsigned>(std::min<std::int64_t>(tiles, card().num_sms));
  launch(prefill_kernel<S>, {num_ctas, S::kThreads, S::kBytes}, stream, a, *map);
  return true;
}

}  // namespace

bool attend_prefill_wgmma(const AttendLaunch& a, cudaStream_t stream) {
  if (!a.bf16) return false;
  switch (a.layout.head_dim) {
    case 64: return launch_tiles<Shape<64>>(a, stream);
    case 128: return launch_tiles<Shape<128>>(a, stream);
    default: return false;
  }
}

}  // namespace fastgen::device
