// The ops of the echo backend as plain functions over its tensors. See echo_backend.h for what a row holds.
// Whatever points outside its buffer, or asks for a draw from a padding row, is our bug and aborts.
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace fastgen::echo {

void embed(const EmbedArgs& args, std::int32_t vocab);
// residual += delta (if given), word by word; out = residual.
void add_norm(const Tensor& residual, const Tensor& delta, const Tensor& out);
void store_kv(const QkvArgs& args);
void attend(const AttendArgs& args);
// The first words of each row of x become the last words of out's row; the others become zero.
void linear(const Tensor& x, const Tensor& out);
// The same, added.
void linear_add(const Tensor& x, const Tensor& residual);
void fill_zero(const Tensor& out);
void gather_rows(const Tensor& x, const Tensor& rows, const Tensor& out);
void logits_sample(const Tensor& x, const SampleBatch& batch, const KvArena& arena, std::int32_t vocab,
                   const Tensor& ids, const LogprobOutput& out);
void token_logprobs(const Tensor& x, const Tensor& ids, std::int32_t num_top, std::int32_t vocab,
                    const LogprobOutput& out);

}  // namespace fastgen::echo
