#include "plan/model_plan.h"

#include <filesystem>

#include "support/support.h"

namespace fastgen::plan {
namespace {

ModelConfig named(const char* name) { return load_config(test::golden().parent_path() / "configs" / name); }

PlanInput on_h200(const char* name) { return {.model = named(name), .card = *find_card("h200")}; }

TEST_CASE("the parts of a model are all of it") {
  for (const auto& folder : std::filesystem::directory_iterator(test::golden().parent_path() / "configs")) {
    const ModelConfig model = load_config(folder.path());
    CAPTURE(folder.path().string());
    std::int64_t sum = 0;
    for (const Part& part : parts_of(model)) sum += part.num_parameters;
    CHECK(sum == model.num_parameters());
  }
}

// By hand: 8,030,261,248 parameters of two bytes; 32 layers, 8 KV heads of 128, K and V, two bytes: 131,072 bytes a token.
TEST_CASE("Llama 3.1 8B on an H200: what is left holds some nine hundred thousand tokens") {
  const PlanInput input = on_h200("llama-3.1-8b");
  const MemoryPlan memory = plan_memory(input);
  CHECK(memory.weights == 16'060'522'496.0);
  CHECK(memory.kv_per_token == 131072);
  CHECK(memory.kv_tokens == memory.num_blocks * 64);
  CHECK(memory.kv_tokens > 900'000);
  CHECK(memory.kv_tokens * memory.kv_per_token + memory.weights < input.card.memory_bytes);
  CHECK(sequences_of(input, memory, 8192) == memory.num_blocks / 128);
  CHECK(sequences_of(input, memory, 8193) == memory.num_blocks / 129);  // one more token needs one more block
}

// A block of 64 tokens is 64 x (131,072 + 4) bytes, the ids included.
TEST_CASE("the host tier is whole blocks beside the card's memory") {
  PlanInput input = on_h200("llama-3.1-8b");
  const MemoryPlan without = plan_memory(input);
  CHECK(without.num_host_blocks == 0);
  input.host_kv_gb = 100;
  CHECK(plan_memory(input).num_host_blocks == 100'000'000'000 / (64 * 131076));
  CHECK(plan_memory(input).num_blocks == without.num_blocks);
}

TEST_CASE("70B in bfloat16 does not fit on one H200, in two thirds of a card more it does") {
  PlanInput input = on_h200("r1-distill-llama-70b");
  CHECK(plan_memory(input).weights > input.card.memory_bytes);
  CHECK(plan_memory(input).num_blocks == 0);
  CHECK(sequences_of(input, plan_memory(input), 1) == 0);
  input.card.memory_bytes = 240e9;
  CHECK(plan_memory(input).num_blocks > 0);
}

// By hand, Mistral 7B: 7,248,023,552 parameters less the embedding's 134,217,728 are read for each token, two bytes each, and the KV
// of 1,024 tokens: 14.362 GB at 4.8 TB/s.
TEST_CASE("one stream is bound by memory, a prompt by arithmetic") {
  const PlanInput input = on_h200("mistral-7b");
  const Roofline token = time_per_token(input, 1, 1024);
  CHECK(token.bound_by_memory);
  CHECK(token.seconds == doctest::Approx((2.0 * (7'248'023'552 - 134'217'728 - 266'240) + 1024 * 131072) / 4.8e12).epsilon(1e-9));
  const Roofline first = time_to_first_token(input, 1024);
  CHECK_FALSE(first.bound_by_memory);
  // 2 flops for each of the layers' 6,979,321,856 parameters and token, 2 for the head's and one token, attention's triangle.
  const double attention = 4.0 * 32 * 128 * 32 * (1024.0 * 1025 / 2);
  CHECK(first.seconds == doctest::Approx((2.0 * 6'979'321'856 * 1024 + 2.0 * 134'217'728 + attention) / 989e12).epsilon(1e-9));
  CHECK(time_per_token(input, 512, 128).seconds > 2 * token.seconds);
}

TEST_CASE("windows bound what is read, and the rest of the KV is dead weight") {
  ModelConfig model = named("ministral-8b");
  CHECK(unread_share(model, 32768) == 0);
  model.window = 1024;
  CHECK(unread_share(model, 4096) == doctest::Approx(0.75));
  model.windowed.assign(static_cast<std::size_t>(model.num_layers), false);
  for (std::size_t i = 0; i < model.windowed.size(); i += 2) model.windowed[i] = true;
  CHECK(unread_share(model, 4096) == doctest::Approx(0.375));
  CHECK(unread_share(model, 1024) == 0);
}

TEST_CASE("cards are known by name") {
  CHECK(find_card("h100"));
  CHECK_FALSE(find_card("h999"));
  CHECK(card_names().find("h200") != std::string::npos);
}

}  // namespace
}  // namespace fastgen::plan
