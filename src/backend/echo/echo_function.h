// The published function of the echo backend: which token follows which tokens. Plain C++17 without
// dependencies; all arithmetic is on unsigned 64-bit integers and wraps, so that Python repeats it in a few
// lines (tests/support/echo_check.py) and a client checks each token in constant time.
//
//   term(token, position)  = mix64(token * 2^32 + position)               position: 0 is the first token of
//   the prompt keys   = sum of term(token, position) over all tokens so far          what attend sums from K
//   values = sum of mix64(term(token, position))                          what attend sums from V
//   hash   = mix64(keys xor rotate_left(values, 32))
//
//   first_id = min(256, vocab / 4)             so that control tokens and single bytes are seldom drawn
//   id(draw) = first_id + draw mod (vocab - first_id)
//   draw     = hash                                                                        temperature 0
//              mix64(hash xor mix64(seed + mix64(choice_idx * 2^32 + output_position)))     else
//   banned ids (bias <= -100): draw = mix64(draw) until id(draw) is allowed, at most 256 times, then the
//   lowest allowed id, 0 if there is none. Other biases, top_k, top_p, min_p and penalties change nothing.
//
//   greedy     = id(hash), without bans
//   rank(id)   = (id - greedy) mod vocab
//   logprob    = -((hash >> 32) mod 1024 + 8 * min(rank, 4096)) / 1024     exact in float32
//   alternative number j = (greedy + j) mod vocab, so they come most likely first
#pragma once

#include <cstdint>

namespace fastgen::echo {

// The finaliser of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA
// 2014).
inline std::uint64_t mix64(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

inline std::uint64_t pair64(std::uint32_t high, std::uint32_t low) { return std::uint64_t{high} << 32 | low; }

inline std::uint64_t term(std::int32_t token, std::int32_t position) {
  return mix64(pair64(static_cast<std::uint32_t>(token), static_cast<std::uint32_t>(position)));
}

inline std::uint64_t hash_of_sums(std::uint64_t keys, std::uint64_t values) {
  return mix64(keys ^ (values << 32 | values >> 32));
}

// All tokens so far, as a client keeps them.
class Context {
 public:
  void push(std::int32_t token) {
    const std::uint64_t t = term(token, length_++);
    keys_ += t;
    values_ += mix64(t);
  }
  std::uint64_t hash() const { return hash_of_sums(keys_, values_); }
  std::int32_t length() const { return length_; }

 private:
  std::uint64_t keys_ = 0, values_ = 0;
  std::int32_t length_ = 0;
};

inline std::int32_t first_id(std::int32_t vocab) { return vocab / 4 < 256 ? vocab / 4 : 256; }

inline std::int32_t id_of_draw(std::uint64_t draw, std::int32_t vocab) {
  const std::int32_t first = first_id(vocab);
  return first + static_cast<std::int32_t>(draw % static_cast<std::uint64_t>(vocab - first));
}

inline std::uint64_t draw_of(std::uint64_t hash, float temperature, std::uint64_t seed,
                             std::uint32_t choice_idx, std::uint32_t output_position) {
  if (!(temperature > 0)) return hash;
  return mix64(hash ^ mix64(seed + mix64(pair64(choice_idx, output_position))));
}

inline constexpr float kBanBias = -100;
inline constexpr int kMaxRedraws = 256;

// is_banned(id) -> bool.
template <typename IsBanned>
std::int32_t allowed_id(std::uint64_t draw, std::int32_t vocab, const IsBanned& is_banned) {
  for (int i = 0; i <= kMaxRedraws; ++i, draw = mix64(draw)) {
    const std::int32_t id = id_of_draw(draw, vocab);
    if (!is_banned(id)) return id;
  }
  for (std::int32_t id = 0; id < vocab; ++id) {
    if (!is_banned(id)) return id;
  }
  return 0;
}

inline float logprob(std::uint64_t hash, std::int32_t id, std::int32_t vocab) {
  const std::int32_t greedy = id_of_draw(hash, vocab);
  const std::int32_t rank = id >= greedy ? id - greedy : id - greedy + vocab;
  const std::int32_t units = static_cast<std::int32_t>((hash >> 32) % 1024) + 8 * (rank < 4096 ? rank : 4096);
  return -static_cast<float>(units) / 1024;
}

inline std::int32_t alternative(std::uint64_t hash, std::int32_t j, std::int32_t vocab) {
  return static_cast<std::int32_t>((std::int64_t{id_of_draw(hash, vocab)} + j) % vocab);
}

}  // namespace fastgen::echo
