// What only sm_90a has: barriers that count bytes, copies by tensor maps (TMA), products of whole warpgroups (wgmma), registers that move
// from warpgroup to warpgroup. PTX ISA 8.0, sections on mbarrier, cp.async.bulk.tensor and wgmma. Compiled for other cards the bodies are
// empty: kernels that use them are launched where has_hopper() alone.
//
// Tiles in shared memory have rows of 128 bytes and begin at a multiple of 1,024 bytes; the 16-byte pieces of row r lie at piece ^ (r & 7)
// (the 128-byte swizzle of tensor maps).
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "launch.cuh"
#include "mma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FG_HOPPER 1
#endif

namespace fastgen::device {

inline constexpr int kWarpgroup = 128;     // threads
inline constexpr int kSwizzleBytes = 128;  // of a row in shared memory
inline constexpr int kSwizzleElements = kSwizzleBytes / 2;

// Whether this build has code for sm_90a and the card runs it.
inline bool has_hopper() {
#ifdef FG_SM90A
  return card().major == 9;
#else
  return false;
#endif
}

// ---- barriers in shared memory, by their address there. Arrivals and waits are ordered within the block, which is what they say without a
// scope: at a cluster's each costs a fence of the whole card (508 instead of 660 TFLOP/s in a product on an H200; neither it nor a record is kept).

__device__ inline void init_barrier(unsigned barrier, int arrivals) {
#ifdef FG_HOPPER
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
#endif
}
// After init_barrier, before copies use them.
__device__ inline void publish_barriers() {
#ifdef FG_HOPPER
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
// Arrives and adds to the bytes that the phase waits for.
__device__ inline void expect_bytes(unsigned barrier, int bytes) {
#ifdef FG_HOPPER
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}
__device__ inline void arrive(unsigned barrier) {
#ifdef FG_HOPPER
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}
// Until the phase of this parity is over.
__device__ inline void wait_barrier(unsigned barrier, unsigned parity) {
#ifdef FG_HOPPER
  unsigned over = 0;
  while (over == 0) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(over)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
#endif
}

// A place that walks round a ring of kSize stages, and the parity of the barriers' phase there.
template <int kSize>
struct Ring {
  int at = 0;
  unsigned parity = 0;
  __device__ void advance() {
    if (++at == kSize) at = 0, parity ^= 1;
  }
};

// Of `threads` threads that pass the same id, 1 .. 15.
__device__ inline void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- clusters of blocks

// This block's number in its cluster.
__device__ inline int cluster_rank() {
  unsigned rank = 0;
#ifdef FG_HOPPER
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return static_cast<int>(rank);
}
// Of all threads of the cluster.
__device__ inline void sync_cluster() {
#ifdef FG_HOPPER
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
// At the barrier at the same place in that block of the cluster.
__device__ inline void arrive_in(int rank, unsigned barrier) {
#ifdef FG_HOPPER
  asm volatile(
      "{\n.reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
#endif
}

// ---- copies

// The box of the map at (x, y), x innermost, to `to`; the barrier counts its bytes. What lies outside becomes zeros.
__device__ inline void load_box(unsigned to, const CUtensorMap& map, int x, int y, unsigned barrier) {
#ifdef FG_HOPPER
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
               "l"(&map), "r"(x), "r"(y), "r"(barrier)
               : "memory");
#endif
}
// The same to the same place in each block of the cluster whose bit is set in `blocks`, counted by the barrier at the same place there.
__device__ inline void load_box_for(unsigned blocks, unsigned to, const CUtensorMap& map, int x, int y, unsigned barrier) {
#ifdef FG_HOPPER
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(
          to),
      "l"(&map), "r"(x), "r"(y), "r"(barrier), "h"(static_cast<unsigned short>(blocks))
      : "memory");
#endif
}
// A box from shared memory, after publish_stores() by the threads that wrote it and a barrier; what lies outside the matrix is left out.
__device__ inline void store_box(const CUtensorMap& map, int x, int y, unsigned from) {
#ifdef FG_HOPPER
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(x), "r"(y), "r"(from)
               : "memory");
#endif
}
__device__ inline void commit_boxes() {
#ifdef FG_HOPPER
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}
// Until the shared memory of this thread's boxes may be written again, or until the boxes are stored.
__device__ inline void wait_boxes_read() {
#ifdef FG_HOPPER
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
}
__device__ inline void wait_boxes() {
#ifdef FG_HOPPER
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
}
// Four 8 x 8 matrices of 16-bit elements, held as quarters of A (mma.cuh); lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void store_matrices(unsigned row_address, const unsigned (&from)[4]) {
#ifdef FG_HOPPER
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address), "r"(from[0]), "r"(from[1]), "r"(from[2]),
               "r"(from[3])
               : "memory");
#endif
}
__device__ inline void prefetch_map(const CUtensorMap& map) {
#ifdef FG_HOPPER
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

// ---- products

// Of rows of 128 bytes whose groups of eight follow each other. Further along K by n elements of 16 bits: + n / 8.
__device__ inline std::uint64_t matrix_descriptor(unsigned address) {
  constexpr std::uint64_t kGroupBytes = 8 * kSwizzleBytes, kSwizzle128 = 1;
  return std::uint64_t{(address & 0x3ffff) >> 4} | std::uint64_t{1} << 16 | kGroupBytes >> 4 << 32 | kSwizzle128 << 62;
}
// Before the first product, and after registers of sums were touched.
__device__ inline void begin_products() {
#ifdef FG_HOPPER
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ inline void commit_products() {
#ifdef FG_HOPPER
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// Until at most kPending of the latest commits are under way.
template <int kPending>
__device__ inline void wait_products() {
#ifdef FG_HOPPER
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

// More or fewer registers for each thread of the warpgroup.
template <int kRegisters>
__device__ inline void give_registers() {
#ifdef FG_HOPPER
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ inline void take_registers() {
#ifdef FG_HOPPER
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

}  // namespace fastgen::device
