#include "engine/step.h"

#include <algorithm>
#include <limits>

#include "base/spans.h"

namespace fastgen {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();
constexpr float kBanBias = -100;  // types.h: such a bias and below bans the token

bool is_min_unmet(const StepRow& row) {
  return row.start + row.count - row.sequence->prompt_len() < row.sequence->request->request.sampling.min_tokens;
}

std::int64_t num_biases(const StepRow& row) {
  const RequestState& request = *row.sequence->request;
  const std::size_t banned = is_min_unmet(row) ? request.banned_until_min.size() : 0;
  return static_cast<std::int64_t>(request.request.sampling.logit_bias.size() + banned);
}

BatchShape shape_of(const Step& step, const KvCache& kv) {
  BatchShape shape;
  shape.num_decode_seqs = step.num_decodes;
  shape.num_copies = static_cast<std::int64_t>(step.copies.size());
  for (const StepRow& row : step.rows) {
    shape.num_tokens += row.count;
    shape.num_prompt_rows += row.num_targets;
    if (row.draws) {
      ++shape.num_samples;
      shape.num_biases += num_biases(row);
    }
    if (row.count == 0) continue;
    ++shape.num_seqs;
    shape.num_logit_rows += row.draws;
    shape.num_entries += static_cast<std::int64_t>(kv.blocks(row.sequence->table).size());
  }
  return shape;
}

class Packer {
 public:
  Packer(BatchWriter& writer, const KvCache& kv) : writer_(writer), kv_(kv) {}

  void add(StepRow& row) {
    if (row.count > 0) add_tokens(row);
    if (row.draws) row.sample_idx = add_sample(row);
  }

 private:
  void add_tokens(StepRow& row) {
    const Sequence& sequence = *row.sequence;
    table_row_ = writer_.add_sequence(kv_.blocks(sequence.table), row.start + row.count);
    const std::int32_t num_known = sequence.prompt_len() + static_cast<std::int32_t>(sequence.output.size());
    for (std::int32_t p = row.start; p < row.start + row.count; ++p) {
      // A token that a step in flight draws is where that step leaves it.
      const TokenId id = p < num_known ? sequence.token(p) : -1 - sequence.state_slot;
      writer_.add_token(id, p, kv_.slot(sequence.table, p));
      add_target(row, p);
    }
    if (row.draws) logits_row_ = writer_.add_logit_row();
    history_len_ = row.start + row.count;
  }

  void add_target(StepRow& row, std::int32_t position) {
    const std::int32_t target = position + 1;
    if (target < row.first_target || target >= row.first_target + row.num_targets) return;
    if (target == row.first_target) row.prompt_row = num_prompt_rows_;
    writer_.add_prompt_row(row.sequence->token(target));
    ++num_prompt_rows_;
  }

  std::int32_t add_sample(const StepRow& row) {
    const Sequence& sequence = *row.sequence;
    const SamplingParams& params = sequence.request->request.sampling;
    for (const LogitBias& bias : params.logit_bias) writer_.add_bias(bias.id, bias.bias <= kBanBias ? kBanned : bias.bias);
    if (is_min_unmet(row))
      for (TokenId id : sequence.request->banned_until_min) writer_.add_bias(id, kBanned);
    return writer_.add_sample({.logits_row = logits_row_,
                               .state_slot = sequence.state_slot,
                               .table_row = table_row_,
                               .history_len = history_len_,
                               .prompt_len = sequence.prompt_len(),
                               .top_k = params.top_k,
                               .num_top = params.num_logprobs,
                               .choice_idx = static_cast<std::uint32_t>(sequence.choice_idx),
                               .position = static_cast<std::uint32_t>(history_len_ - sequence.prompt_len()),
                               .temperature = params.temperature,
                               .top_p = params.top_p,
                               .min_p = params.min_p,
                               .repetition_penalty = params.repetition_penalty,
                               .frequency_penalty = params.frequency_penalty,
                               .presence_penalty = params.presence_penalty,
                               .seed = params.seed});
  }

  BatchWriter& writer_;
  const KvCache& kv_;
  std::int32_t table_row_ = 0, logits_row_ = 0, history_len_ = 0, num_prompt_rows_ = 0;
};

}  // namespace

BatchShape pack_step(Step& step, const KvCache& kv, Runner& runner) {
  const BatchShape shape = runner.fit(shape_of(step, kv));
  BatchWriter writer(runner.staging(), shape);
  for (const BlockCopy& copy : step.copies) writer.add_copy(copy.from, copy.to);
  Packer packer(writer, kv);
  for (StepRow& row : step.rows) {
    packer.add(row);
    const SamplingParams& params = row.sequence->request->request.sampling;
    if (row.draws && params.num_logprobs > 0) step.wanted.top = true;
    if (row.num_targets > 0) step.wanted.num_prompt_top = std::max(step.wanted.num_prompt_top, params.num_prompt_logprobs);
  }
  writer.finish();
  return shape;
}

void record_step(const Step& step, std::uint64_t step_number) {
  if constexpr (!kHasProfiler) return;
  record_span({SpanKind::kStep, step.start_ns, now_ns(), step_number,
               {static_cast<std::int32_t>(step.decode_tokens), static_cast<std::int32_t>(step.prefill_tokens), step.is_graph}});
}

std::int64_t max_biases_per_row(std::size_t num_eos_ids) {
  return kMaxLogitBias + kMaxStopTokenIds + static_cast<std::int64_t>(num_eos_ids);
}

}  // namespace fastgen
