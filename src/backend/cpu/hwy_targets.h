// Include before hwy/foreach_target.h: the instruction sets that our Highway code is compiled for (the compiler's
// baseline, SSE4, AVX2, AVX-512). Those between add compile time and no speed here. On x86-64 Highway 1.0.3 has nothing
// for SSE2, so its baseline is scalar code: right, slow, for CPUs older than 2008.
#pragma once

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
