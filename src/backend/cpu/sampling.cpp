#include "backend/cpu/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "backend/counter_rng.h"

namespace fastgen {

namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

// Where a thread's scratch lies; arrays of V.
struct Scratch {
  float* logits;  // the row's own copy
  float* probs;   // unnormalised
  float* kept_values;
  std::int32_t* kept_ids;
};

Scratch carve(float* base, std::int64_t vocab) {
  return {base, base + vocab, base + 2 * vocab, reinterpret_cast<std::int32_t*>(base + 3 * vocab)};
}

// visit(token, position) over the row's history.
template <typename Visit>
void for_history(const SampleInput& in, const Visit& visit) {
  for (std::int32_t p = 0; p < in.row.history_len; ++p) {
    const std::int64_t slot = std::int64_t{in.block_table[p / in.block_size]} * in.block_size + p % in.block_size;
    const std::int32_t token = in.slot_tokens[slot];
    if (token >= 0 && token < in.vocab) visit(token, p);
  }
}

void apply_bias(const SampleInput& in, float* logits) {
  for (std::int32_t i = 0; i < in.row.bias_count; ++i) {
    const std::int32_t id = in.bias_ids[in.row.bias_start + i];
    if (id >= 0 && id < in.vocab) logits[id] += in.bias_values[in.row.bias_start + i];
  }
}

// marks[token] is 0, or 1 + 2 * how often the token is in the output.
void apply_penalties(const SampleInput& in, std::int32_t* marks, float* logits) {
  const SampleRow& row = in.row;
  for_history(in, [&](std::int32_t token, std::int32_t p) {
    marks[token] = (marks[token] | 1) + (p >= row.prompt_len ? 2 : 0);
  });
  for_history(in, [&](std::int32_t token, std::int32_t) {
    if (marks[token] == 0) return;  // done at an earlier position
    const std::int32_t count = marks[token] / 2;
    float& logit = logits[token];
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    if (count > 0) logit -= row.frequency_penalty * static_cast<float>(count) + row.presence_penalty;
    marks[token] = 0;
  });
}

// What a token must at least have to be kept by a limit on how much may be strictly above it: the least value with less
// than `limit` of weight above it. weight(value) is 1 for top_k and the value itself for top_p.
//
// A radix descent over the bits of the floats (they are >= 0, so their bits sort as they do): three passes, each over what
// shares the bucket found before, no sorting. `left` holds n floats and may be overwritten.
template <typename Weight>
float threshold_of(const float* values, std::int64_t n, double limit, const Weight& weight, float* left) {
  constexpr int kShifts[] = {21, 10, 0};
  constexpr std::uint32_t kMasks[] = {0x7FF, 0x7FF, 0x3FF};
  std::uint32_t result = 0;
  double above = 0;  // weight of all values over the bucket in hand
  for (int level = 0; level < 3; ++level) {
    const auto bucket_of = [&](float value) { return std::bit_cast<std::uint32_t>(value) >> kShifts[level] & kMasks[level]; };
    double weights[1 << 11] = {};  // a bucket with values has weight: they are > 0
    for (std::int64_t i = 0; i < n; ++i) weights[bucket_of(values[i])] += weight(values[i]);
    // Down from the top: a bucket is where the least kept value lies if with its weight the limit is reached.
    std::uint32_t bucket = 0;
    bool found = false;
    for (std::uint32_t b = kMasks[level] + 1; b-- > 0;) {
      if (weights[b] == 0) continue;
      if (found && above + weights[bucket] >= limit) break;
      if (found) above += weights[bucket];
      bucket = b;
      found = true;
    }
    result |= bucket << kShifts[level];
    std::int64_t num_left = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      left[num_left] = values[i];  // in place from the second pass on: num_left <= i
      num_left += bucket_of(values[i]) == bucket;
    }
    values = left;
    n = num_left;
  }
  return std::bit_cast<float>(result);
}

// Drops what is under the threshold, in place.
std::int64_t keep_at_least(const Scratch& s, std::int64_t n, float threshold) {
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (s.kept_values[i] < threshold) continue;
    s.kept_values[kept] = s.kept_values[i];
    s.kept_ids[kept++] = s.kept_ids[i];
  }
  return kept;
}

// Truncation: fills kept_ids and kept_values in order of ids; how many.
std::int64_t truncate(const SampleRow& row, const Scratch& s, std::int64_t vocab, double total) {
  float least = std::max(row.min_p, 0x1p-126f);  // probs are relative to the largest, which is 1
  const bool cut_k = row.top_k > 0 && row.top_k < vocab, cut_p = row.top_p < 1;
  // A value v with V * v < (1 - top_p) * total cannot be kept by top_p: all that is less likely has too little mass
  // together. With top_k or min_p as well the kept mass is smaller, so the bound holds only without them.
  if (cut_p && !cut_k && row.min_p <= 0) {
    least = std::max(least, static_cast<float>((1 - double{row.top_p}) * total / static_cast<double>(vocab) * 0.5));
  }
  double mass = total;
  std::int64_t n = collect_at_least(s.probs, vocab, least, s.kept_ids, s.kept_values);
  if (cut_k && row.top_k < n) {
    n = keep_at_least(s, n, threshold_of(s.kept_values, n, row.top_k, [](float) { return 1.0; }, s.probs));
  }
  if (cut_p) {
    if (cut_k || row.min_p > 0) mass = sum(s.kept_values, n);
    n = keep_at_least(s, n, threshold_of(s.kept_values, n, double{row.top_p} * mass, [](float v) { return double{v}; }, s.probs));
  }
  return n;
}

// The index at which the running sum first exceeds u * sum(values).
std::int64_t draw(const float* values, std::int64_t n, double total, float u) {
  const double target = double{u} * total;
  double below = 0;
  std::int64_t last = 0;
  // Whole runs are skipped by their sums, then the run that holds the target is walked.
  constexpr std::int64_t kRun = 512;
  std::int64_t i = 0;
  for (; i + kRun <= n; i += kRun) {
    const double run = sum(values + i, kRun);
    if (below + run > target) break;
    below += run;
  }
  for (; i < n; ++i) {
    if (!(values[i] > 0)) continue;
    below += double{values[i]};
    last = i;
    if (below > target) return i;
  }
  // Rounding left the target at the end: the last token that has any mass.
  for (last = n - 1; last > 0 && !(values[last] > 0); --last) {
  }
  return last;
}

}  // namespace

std::int32_t sample_token(const SampleInput& in, float* scratch, std::int32_t* marks) {
  const SampleRow& row = in.row;
  const Scratch s = carve(scratch, in.vocab);
  const float* logits = in.logits;
  if (row.bias_count > 0 || row.has_penalties()) {
    std::copy(in.logits, in.logits + in.vocab, s.logits);
    apply_bias(in, s.logits);
    if (row.has_penalties()) apply_penalties(in, marks, s.logits);
    logits = s.logits;
  }
  const MaxAt max = find_max(logits, in.vocab);
  if (row.temperature <= 0 || !std::isfinite(max.value)) return static_cast<std::int32_t>(max.idx);
  const float scale = 1 / row.temperature;
  if (!std::isfinite(scale)) return static_cast<std::int32_t>(max.idx);
  exp_scaled(logits, in.vocab, max.value, scale, s.probs);
  const double total = sum(s.probs, in.vocab);
  const float u = sampling_uniform(row.seed, row.choice_idx, row.position);
  if (row.top_k <= 0 && row.top_p >= 1 && row.min_p <= 0) {
    return static_cast<std::int32_t>(draw(s.probs, in.vocab, total, u));
  }
  const std::int64_t n = truncate(row, s, in.vocab, total);
  return s.kept_ids[draw(s.kept_values, n, sum(s.kept_values, n), u)];
}

float log_sum_exp(const float* logits, std::int64_t vocab) {
  // Blocks keep the exponentials on the stack; their sums are added in double.
  const float max = find_max(logits, vocab).value;
  if (!std::isfinite(max)) return max;
  constexpr std::int64_t kBlock = 1024;
  alignas(64) float exponentials[kBlock];
  double total = 0;
  for (std::int64_t i = 0; i < vocab; i += kBlock) {
    const std::int64_t n = std::min(kBlock, vocab - i);
    exp_scaled(logits + i, n, max, 1.0f, exponentials);
    total += sum(exponentials, n);
  }
  return max + static_cast<float>(std::log(total));
}

void top_logprobs(const float* logits, std::int64_t vocab, float lse, std::int32_t count, std::int32_t* ids,
                  float* logprobs) {
  // Insertion into a short sorted list; a strictly larger value goes before equals, so that lower ids stay first.
  std::int32_t held = 0;
  for (std::int64_t i = 0; i < vocab; ++i) {
    const float value = std::isnan(logits[i]) ? kNone : logits[i];
    if (held == count && (count == 0 || !(value > logprobs[count - 1]))) continue;
    std::int32_t at = held < count ? held++ : count - 1;
    for (; at > 0 && value > logprobs[at - 1]; --at) {
      logprobs[at] = logprobs[at - 1];
      ids[at] = ids[at - 1];
    }
    logprobs[at] = value;
    ids[at] = static_cast<std::int32_t>(i);
  }
  for (std::int32_t i = 0; i < held; ++i) logprobs[i] -= lse;
}

}  // namespace fastgen
