// Random weights (backend/random_weights.h), vectorised: the same bits on every CPU.
#pragma once

#include <cstdint>

namespace fastgen {

// Elements first .. last - 1 of a stream into out[first] .. out[last - 1], as float32 or bfloat16. first is a multiple of 4. Any thread.
void fill_random(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t last, float* out);
void fill_random(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t last, std::uint16_t* out);

}  // namespace fastgen
