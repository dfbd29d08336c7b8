// What a model needs and what a machine can do with it, from the config alone: plain data in, plain data out.
//
// The times are rooflines (Williams et al. 2009): the larger of flops over the peak rate and bytes over the peak bandwidth, both
// from the card's data sheet. No program reaches them; they say what cannot be faster.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace fastgen::plan {

struct Card {
  std::string_view name;
  double memory_bytes = 0;
  double bytes_per_s = 0;  // memory
  double flops_per_s = 0;  // dense bfloat16
};
// None for an unknown name; names are lower case ("h200").
std::optional<Card> find_card(std::string_view name);
std::string card_names();  // "h200, h100, ..."

// A part of the weights.
struct Part {
  const char* name = "";
  std::int64_t num_parameters = 0;
};
// Embedding, attention, ffn, norms, head; a tied head has none of its own. Their sum is ModelConfig::num_parameters.
std::vector<Part> parts_of(const ModelConfig& model);

struct PlanInput {
  ModelConfig model;
  DType dtype = DType::kBF16;  // of weights and KV: kBF16 or kF32
  Card card;
  std::int32_t block_size = 64;
  std::int32_t max_batch = 256;
  std::int32_t max_prefill = 8192;  // prompt tokens of one step
  double host_kv_gb = 0;            // of the host tier
};

// Bytes of one part of the memory.
struct MemoryPlan {
  double weights = 0;
  double activations = 0;  // what a step of max_prefill + max_batch tokens needs, about
  double rope_table = 0;
  double kv_room = 0;      // what is left; negative: the model does not fit
  double kv_per_token = 0;
  std::int64_t num_blocks = 0;
  std::int64_t kv_tokens = 0;
  std::int64_t num_host_blocks = 0;
};
MemoryPlan plan_memory(const PlanInput& input);

// Sequences of `length` tokens that the KV cache holds at once; 0: not one.
std::int64_t sequences_of(const PlanInput& input, const MemoryPlan& memory, std::int64_t length);
// The share of a sequence's KV that no layer reads any more at its end: behind the windows of windowed layers.
double unread_share(const ModelConfig& model, std::int64_t length);

struct Roofline {
  double seconds = 0;
  bool bound_by_memory = false;
};
// One prompt of `length` tokens alone.
Roofline time_to_first_token(const PlanInput& input, std::int64_t length);
// One token for each of `batch` sequences of `length` tokens.
Roofline time_per_token(const PlanInput& input, std::int64_t batch, std::int64_t length);

}  // namespace fastgen::plan
