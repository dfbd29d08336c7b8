// Instructions of sm_80 and later under readable names: tensor-core products, matrix loads, asynchronous copies.
//
// Fragments (PTX ISA, "Matrix fragments for mma.m16n8k16"), lane l:
//   A [16, 16]  a0: row l/4, columns 2(l%4) + {0, 1};  a1: row + 8;  a2: columns + 8;  a3: both
//   B [16, 8]   b0: rows 2(l%4) + {0, 1}, column l/4;  b1: rows + 8
//   C [16, 8]   c0, c1: row l/4, columns 2(l%4) + {0, 1};  c2, c3: row + 8
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace fastgen::device {

__device__ inline unsigned shared_address(const void* address) {
  return static_cast<unsigned>(__cvta_generic_to_shared(address));
}

// 16 bytes from global to shared memory, past L1.
__device__ inline void copy_async(unsigned to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
// Zeros where not `real`.
__device__ inline void copy_async(unsigned to, const void* from, bool real) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(real ? 16 : 0)
               : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most kPending of this thread's latest commits are still under way.
template <int kPending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(unsigned (&to)[4], unsigned row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row_address)
               : "memory");
}
// The same, each matrix transposed on the way.
__device__ inline void load_transposed(unsigned (&to)[4], unsigned row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row_address)
               : "memory");
}
// An 8 x 8 matrix held in registers as a quarter of A.
__device__ inline unsigned transpose(unsigned from) {
  unsigned to;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(to) : "r"(from));
  return to;
}

// c += a b, bf16 into float32.
__device__ inline void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline unsigned pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Rows of kDim 16-bit elements in shared memory, as pieces of 16 bytes: where piece `piece` of row `row` lies, in pieces.
// Eight rows' pieces of one column lie in eight different bank groups, so that matrix loads have no conflicts: by
// exclusive or where a row fills whole lines of 128 bytes, else by an odd pitch.
template <int kDim>
struct PieceLayout {
  static constexpr bool kExclusiveOr = kDim % 64 == 0;
  static constexpr int kPieces = kDim / 8;
  static constexpr int kPitch = kExclusiveOr ? kPieces : kPieces | 1;
  static constexpr int kRowBytes = kPitch * 16;
  __host__ __device__ static constexpr int at(int row, int piece) {
    return row * kPitch + (kExclusiveOr ? piece ^ (row & 7) : piece);
  }
  // The address of piece p + pieces of a row, of the address of its piece p: p 0 or 1, pieces even. The rows begin at a
  // multiple of 1024 bytes. One instruction with a constant, so that no register holds it from loop to loop.
  __device__ static unsigned ahead(unsigned address, int pieces) {
    return kExclusiveOr ? address ^ static_cast<unsigned>(pieces * 16) : address + pieces * 16;
  }
};

}  // namespace fastgen::device
