// The micro-benchmarks of `fgbench op`: each makes its data in a lab of its own, times one op of the backend and says what it
// moved and computed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/lab.h"
#include "bench/model_shape.h"

namespace fastgen::bench {

struct OpResult {
  std::string op;    // "decode-attention"
  std::string what;  // the case: "32 x 4096"
  Timing timing;
  Work work;
};

// Sequences of one batch: so many of a context each.
struct Lengths {
  std::string text;  // "8x8192,56x90"
  std::vector<std::int32_t> contexts;
};
// "8x8192,56x90". Throws Error naming --lengths.
Lengths parse_lengths(const std::string& text);

// Rows behind each other in prefill: `count` sequences of `rows` new tokens, the last of `context` tokens.
struct Chunks {
  std::string text;  // "8x1024:2048", or "8x1024" where the context is the rows
  std::int32_t count = 0, rows = 0, context = 0;
};
Chunks parse_chunks(const std::string& text);  // throws Error naming --chunks

// Which matrix of a model: qkv (with RoPE and the store), o, gate-up (with SiLU), down, head (logits alone).
inline constexpr const char* kMatrices[] = {"qkv", "o", "gate-up", "down", "head"};
// How tokens are drawn: greedy, temperature, top-k, top-p, penalties.
inline constexpr const char* kDraws[] = {"greedy", "temperature", "top-k", "top-p", "penalties"};

struct OpSettings {
  LabOptions lab;
  ModelShape shape;
  std::int32_t block_size = 64;
  std::int32_t table_tokens = 0;  // width of the block tables; 0: of the longest sequence
};

// One layer's attention of one token for each sequence; blocks lie scattered.
OpResult decode_attention(const OpSettings& settings, const Lengths& lengths);
OpResult prefill_attention(const OpSettings& settings, const Chunks& chunks);
OpResult product(const OpSettings& settings, const std::string& matrix, std::int64_t num_rows);
// Head product over a small dimension, so that its time is nearly all the draw's.
OpResult sampling(const OpSettings& settings, const std::string& draw, std::int64_t num_rows);
OpResult norm(const OpSettings& settings, std::int64_t num_rows);

}  // namespace fastgen::bench
