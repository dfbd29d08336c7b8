// Byte-pair encoding (Sennrich et al. 2016) of one word: the pair with the lowest rank is merged first, the
// leftmost of equal ones, until no pair has a rank.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fastgen/types.h"
#include "text/vocab.h"

namespace fastgen {

// The model of tokenizer.json as plain data. Names are as written there.
struct BpeConfig {
  struct Merge {
    TokenId left = 0, right = 0, merged = 0;
  };
  std::vector<std::string_view>
      keys;                   // by id: the text that the token stands for in a word; no data(): never made
  std::vector<Merge> merges;  // in order of rank
  std::array<TokenId, 256> byte_ids{};  // the <0x00>.. tokens, -1 where there is none
  std::optional<TokenId> unk;
  bool byte_level = false;
  bool byte_fallback = false;
  bool fuse_unk = false;
  bool ignore_merges = false;  // a word that is in the vocabulary is that token
};

// Const but for a cache of flags, and safe to share.
class Bpe {
 public:
  explicit Bpe(const BpeConfig& config);

  // Memory that one thread reuses from word to word.
  struct Scratch;
  struct ScratchDeleter {
    void operator()(Scratch* scratch) const;
  };
  using ScratchPtr = std::unique_ptr<Scratch, ScratchDeleter>;
  static ScratchPtr make_scratch();

  // Appends the ids of `word`: raw bytes if byte_level, else valid UTF-8. Takes O(n log n) for n bytes.
  void encode(std::string_view word, std::vector<TokenId>& ids, Scratch& scratch) const;

 private:
  // Open addressing, at most half full.
  struct MergeSlot {
    std::uint64_t pair = UINT64_MAX;  // left << 32 | right
    std::uint32_t rank = UINT32_MAX;
    TokenId merged = -1;
  };
  // What a word that is itself in the vocabulary becomes; found out at its first use.
  enum class Whole : std::uint8_t { kUnknown, kOneToken, kSeveral };

  void insert_merge(const BpeConfig::Merge& merge, std::uint32_t rank);
  bool may_cut(const BpeConfig& config) const;
  void encode_part(std::string_view word, std::vector<TokenId>& ids, Scratch& scratch) const;
  const MergeSlot& find_merge(TokenId left, TokenId right) const;
  void append_units(std::string_view word, std::vector<TokenId>& units) const;
  void append_unknown(std::string_view unit_name, bool& unk_open, std::vector<TokenId>& units) const;
  void merge_short(std::vector<TokenId>& units) const;
  void merge_long(Scratch& scratch) const;

  StringTable keys_;
  std::vector<MergeSlot> merges_;
  std::size_t merge_mask_ = 0;
  std::array<TokenId, 256> byte_units_{};  // byte_level: the token of a single byte, or -1
  std::array<TokenId, 256> byte_ids_{};
  std::optional<TokenId> unk_;
  bool byte_level_, byte_fallback_, fuse_unk_, ignore_merges_;
  bool cuts_before_spaces_ = false;  // see may_cut
  // Written by any thread with the same value, so relaxed order suffices.
  std::unique_ptr<std::atomic<Whole>[]> whole_;
};

}  // namespace fastgen
