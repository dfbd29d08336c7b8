// Rotary position embedding (Su et al., "RoFormer", 2021): the table of cosines and sines, and the ways to stretch it over a longer
// context: linear (Chen et al. 2023), dynamic NTK (bloc97 and emozilla 2023), yarn (Peng et al. 2023), Llama 3.1's.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "model/config.h"

namespace fastgen {

// The D/2 angular frequencies, radians per position, high to low: theta^(-2i/D), then scaled as in transformers. Dynamic scaling
// alone depends on `num_positions`, the longest context: up to the trained one it changes nothing; beyond, transformers' frequencies
// grow with the sequence, which a cache of rotated keys cannot follow, so all sequences have those of the longest.
std::vector<double> rope_frequencies(const RopeConfig& rope, std::int32_t head_dim, std::int64_t num_positions);

// Fills `out` [count, D] f32 for positions first .. first + count - 1: D/2 cosines, then D/2 sines, each times `factor`. The angles
// are exact in double, so that the far end of a long context is as good as its beginning.
void fill_rope_rows(const std::vector<double>& frequencies, double factor, std::int64_t first, std::int64_t count, float* out);

// The device table [max_positions, D] f32 that qkv_rope_store reads. Allocates; call before Backend::seal.
Tensor make_rope_table(Backend& backend, const RopeConfig& rope, std::int32_t head_dim, std::int64_t max_positions);

}  // namespace fastgen
