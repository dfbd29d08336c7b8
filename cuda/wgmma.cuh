// Products by warpgroups: rows of 64, bf16, sums in float32.
//
//   multiply             c [64, N] += or = a [64, 16] b [N, 16]^T      a and b in shared memory: matrix_descriptor
//   multiply_transposed  c [64, N] += a [64, 16] b [16, N]             a in registers, b in shared memory: transposed_descriptor
//
// Thread t of the warpgroup holds rows 16 (t / 32) + t % 32 / 4 and + 8, of columns 8 j + 2 (t % 4) + {0, 1}: c[4 j + {0, 1}] of the first
// row, c[4 j + {2, 3}] of the other. Of a, registers 0 and 1 are columns 2 (t % 4) + {0, 1} of the two rows, 2 and 3 the same + 8: those of
// c of two neighbouring j. N is 128 or 256 for multiply, 64 or 128 for multiply_transposed.
#pragma once

#include "hopper.cuh"

namespace fastgen::device {

// Of rows of 64 columns, one row for each of K; the next 64 columns lie `apart` bytes further. Further along K by n rows: + 8 n.
// PTX ISA, canonical layout of an MN-major matrix under the 128-byte swizzle: ((8, 8, m), (8, k)) : ((1, 8, leading), (64, stride)).
__device__ inline std::uint64_t transposed_descriptor(unsigned address, int apart) {
  return (matrix_descriptor(address) & ~(std::uint64_t{0x3fff} << 16)) | static_cast<std::uint64_t>(apart >> 4) << 16;
}

// The compiler may not move what reads or writes these registers across this: products under way own theirs.
template <int kCount>
__device__ inline void pin(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int kCount>
__device__ inline void pin(unsigned (&registers)[kCount][4]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    asm volatile("" : "+r"(registers[i][0]), "+r"(registers[i][1]), "+r"(registers[i][2]), "+r"(registers[i][3])::"memory");
}

// What this thread stored in shared memory shows to products and copies that start after a barrier.
__device__ inline void publish_stores() {
#ifdef FG_HOPPER
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
// A thread's sums as operands of an instruction: their names, and the registers.
#define FG_NAMES_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FG_NAMES_64 \
  FG_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FG_NAMES_128 \
  FG_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FG_SUMS_8(c, i) \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define FG_SUMS_32(c, i) FG_SUMS_8(c, i), FG_SUMS_8(c, i + 8), FG_SUMS_8(c, i + 16), FG_SUMS_8(c, i + 24)
#define FG_SUMS_64(c) FG_SUMS_32(c, 0), FG_SUMS_32(c, 32)
#define FG_SUMS_128(c) FG_SUMS_64(c), FG_SUMS_32(c, 64), FG_SUMS_32(c, 96)

__device__ inline void multiply(float (&c)[64], std::uint64_t a, std::uint64_t b, bool adds) {
#ifdef FG_HOPPER
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      FG_NAMES_64 "}, "
      "%64, %65, p, 1, 1, 0, 0;\n}"
      : FG_SUMS_64(c)
      : "l"(a), "l"(b), "r"(adds ? 1 : 0));
#endif
}

__device__ inline void multiply(float (&c)[128], std::uint64_t a, std::uint64_t b, bool adds) {
#ifdef FG_HOPPER
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      FG_NAMES_128 "}, "
      "%128, %129, p, 1, 1, 0, 0;\n}"
      : FG_SUMS_128(c)
      : "l"(a), "l"(b), "r"(adds ? 1 : 0));
#endif
}

__device__ inline void multiply_transposed(float (&c)[32], const unsigned (&a)[4], std::uint64_t b) {
#ifdef FG_HOPPER
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      FG_NAMES_32 "}, "
      "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
      : FG_SUMS_32(c, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
#endif
}

__device__ inline void multiply_transposed(float (&c)[64], const unsigned (&a)[4], std::uint64_t b) {
#ifdef FG_HOPPER
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      FG_NAMES_64 "}, "
      "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
      : FG_SUMS_64(c)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
#endif
}

#undef FG_NAMES_32
#undef FG_NAMES_64
#undef FG_NAMES_128
#undef FG_SUMS_8
#undef FG_SUMS_32
#undef FG_SUMS_64
#undef FG_SUMS_128

}  // namespace fastgen::device
