// Include before hwy/foreach_target.h: the instruction sets that our Highway code is compiled for (SSE2, SSE4, AVX2,
// AVX-512). Those between add compile time and no speed here.
#pragma once

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
