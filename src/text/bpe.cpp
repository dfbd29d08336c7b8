#include "text/bpe.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "text/utf8.h"

namespace fastgen {

namespace {

// Up to here merging by scanning all pairs is faster than the queue.
constexpr std::size_t kNumShortUnits = 32;

// How sentencepiece's vocabularies write a space.
constexpr std::string_view kMetaspace = "\u2581";

}  // namespace

struct Bpe::Scratch {
  // A linked list of what is left of the word; a unit that went into its left neighbour has id -1.
  struct Unit {
    TokenId id;
    std::int32_t before, next;
  };
  // A pair that was mergeable when it was queued; it may have changed since.
  struct Candidate {
    std::uint32_t rank;
    std::int32_t at;  // index of the left unit
    TokenId merged;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  std::vector<TokenId> units;
  std::vector<Unit> list;
  std::vector<Candidate> queue;  // a heap, smallest on top
};

void Bpe::ScratchDeleter::operator()(Scratch* scratch) const { delete scratch; }
Bpe::ScratchPtr Bpe::make_scratch() { return ScratchPtr(new Scratch); }

Bpe::Bpe(const BpeConfig& config)
    : keys_(config.keys),
      merges_(std::bit_ceil(config.merges.size() * 2 + 2)),
      merge_mask_(merges_.size() - 1),
      byte_ids_(config.byte_ids),
      unk_(config.unk),
      byte_level_(config.byte_level),
      byte_fallback_(config.byte_fallback),
      fuse_unk_(config.fuse_unk),
      ignore_merges_(config.ignore_merges),
      whole_(std::make_unique<std::atomic<Whole>[]>(config.keys.size())) {
  for (std::size_t rank = 0; rank < config.merges.size(); ++rank) {
    insert_merge(config.merges[rank], static_cast<std::uint32_t>(rank));
  }
  for (int byte = 0; byte < 256; ++byte) {
    char c = static_cast<char>(byte);
    byte_units_[byte] = byte_level_ ? keys_.find({&c, 1}).value_or(-1) : -1;
  }
  cuts_before_spaces_ = may_cut(config);
}

// Whether a space that follows another character always begins a token, so that text without a pre-tokenizer
// may be cut there: short parts are merged several times faster than one long word.
bool Bpe::may_cut(const BpeConfig& config) const {
  if (byte_level_ || ignore_merges_ || !keys_.find(kMetaspace)) return false;
  return std::ranges::none_of(config.merges, [&](const BpeConfig::Merge& merge) {
    return config.keys[merge.right].starts_with(kMetaspace) && !config.keys[merge.left].ends_with(kMetaspace);
  });
}

void Bpe::encode(std::string_view word, std::vector<TokenId>& ids, Scratch& scratch) const {
  std::size_t begin = 0;
  for (std::size_t at = 0; cuts_before_spaces_; at += kMetaspace.size()) {
    at = word.find(kMetaspace, at);
    if (at == std::string_view::npos) break;
    if (at == begin || word.substr(0, at).ends_with(kMetaspace)) continue;
    encode_part(word.substr(begin, at - begin), ids, scratch);
    begin = at;
  }
  encode_part(word.substr(begin), ids, scratch);
}

void Bpe::encode_part(std::string_view word, std::vector<TokenId>& ids, Scratch& scratch) const {
  std::optional<TokenId> whole = keys_.find(word);
  Whole known = whole ? whole_[*whole].load(std::memory_order_relaxed) : Whole::kSeveral;
  if (whole && (ignore_merges_ || known == Whole::kOneToken)) return ids.push_back(*whole);
  std::vector<TokenId>& units = scratch.units;
  units.clear();
  append_units(word, units);
  units.size() <= kNumShortUnits ? merge_short(units) : merge_long(scratch);
  if (known == Whole::kUnknown) {
    bool one = units.size() == 1 && units[0] == *whole;
    whole_[*whole].store(one ? Whole::kOneToken : Whole::kSeveral, std::memory_order_relaxed);
  }
  ids.insert(ids.end(), units.begin(), units.end());
}

// The tokens of the word's single characters (bytes, if byte_level).
void Bpe::append_units(std::string_view word, std::vector<TokenId>& units) const {
  bool unk_open = false;  // an unknown token that has not been written yet
  for (std::size_t at = 0; at < word.size();) {
    std::size_t bytes = byte_level_ ? 1 : decode_utf8(word.data() + at).bytes;
    std::string_view unit = word.substr(at, bytes);
    TokenId id =
        byte_level_ ? byte_units_[static_cast<unsigned char>(unit[0])] : keys_.find(unit).value_or(-1);
    at += bytes;
    if (id >= 0) {
      if (unk_open) units.push_back(*unk_);
      unk_open = false;
      units.push_back(id);
    } else if (byte_level_) {
      std::string name;
      append_utf8(name, byte_to_char(static_cast<unsigned char>(unit[0])));
      append_unknown(name, unk_open, units);
    } else {
      append_unknown(unit, unk_open, units);
    }
  }
  if (unk_open) units.push_back(*unk_);
}

// As Hugging Face does it: bytes if all of them have tokens, else the unknown token, else nothing. An unknown
// token that is open stays so across bytes.
void Bpe::append_unknown(std::string_view unit_name, bool& unk_open, std::vector<TokenId>& units) const {
  auto id_of = [this](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
  if (byte_fallback_ && std::ranges::all_of(unit_name, [&](char c) { return id_of(c) >= 0; })) {
    for (char c : unit_name) units.push_back(id_of(c));
  } else if (unk_) {
    if (unk_open && !fuse_unk_) units.push_back(*unk_);
    unk_open = true;
  }
}

void Bpe::merge_short(std::vector<TokenId>& units) const {
  std::array<const MergeSlot*, kNumShortUnits> pairs;  // pairs[i]: of units i and i + 1
  std::size_t size = units.size();
  for (std::size_t i = 0; i + 1 < size; ++i) pairs[i] = &find_merge(units[i], units[i + 1]);
  while (size > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < size; ++i) best = pairs[i]->rank < pairs[best]->rank ? i : best;
    if (pairs[best]->merged < 0) break;
    units[best] = pairs[best]->merged;
    std::copy(units.begin() + best + 2, units.begin() + size, units.begin() + best + 1);
    if (best + 2 < size) std::copy(&pairs[best + 1], pairs.data() + size - 1, &pairs[best]);
    --size;
    if (best + 1 < size) pairs[best] = &find_merge(units[best], units[best + 1]);
    if (best > 0) pairs[best - 1] = &find_merge(units[best - 1], units[best]);
  }
  units.resize(size);
}

void Bpe::merge_long(Scratch& scratch) const {
  auto& [units, list, queue] = scratch;
  FG_CHECK(units.size() < INT32_MAX, units.size());
  auto size = static_cast<std::int32_t>(units.size());
  list.clear(), queue.clear();
  auto add = [&](std::int32_t at) {
    if (at < 0 || list[at].next >= size) return;
    const MergeSlot& merge = find_merge(list[at].id, list[list[at].next].id);
    if (merge.merged < 0) return;
    queue.push_back({merge.rank, at, merge.merged});
  };
  auto push = [&](std::int32_t at) {
    std::size_t before = queue.size();
    add(at);
    if (queue.size() > before) std::push_heap(queue.begin(), queue.end(), std::greater{});
  };
  for (std::int32_t i = 0; i < size; ++i) list.push_back({units[i], i - 1, i + 1});
  for (std::int32_t i = 0; i < size; ++i) add(i);
  std::make_heap(queue.begin(), queue.end(), std::greater{});
  while (!queue.empty()) {
    Scratch::Candidate top = queue.front();
    std::pop_heap(queue.begin(), queue.end(), std::greater{});
    queue.pop_back();
    Scratch::Unit& left = list[top.at];
    if (left.id < 0 || left.next >= size) continue;
    Scratch::Unit& right = list[left.next];
    if (find_merge(left.id, right.id).merged != top.merged) continue;  // changed since it was queued
    left.id = top.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next < size) list[left.next].before = top.at;
    push(left.before);
    push(top.at);
  }
  units.clear();
  for (std::int32_t i = 0; i < size; i = list[i].next) units.push_back(list[i].id);
}

namespace {

std::uint64_t pair_of(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
}

std::size_t hash_pair(std::uint64_t pair) {
  std::uint64_t hash = (pair ^ pair >> 29) * 0x9e3779b97f4a7c15;
  return hash ^ hash >> 32;
}

}  // namespace

// Of a pair that stands twice, the later rank counts.
void Bpe::insert_merge(const BpeConfig::Merge& merge, std::uint32_t rank) {
  std::uint64_t pair = pair_of(merge.left, merge.right);
  std::size_t i = hash_pair(pair) & merge_mask_;
  while (merges_[i].merged >= 0 && merges_[i].pair != pair) i = (i + 1) & merge_mask_;
  merges_[i] = {pair, rank, merge.merged};
}

// A slot whose `merged` is negative stands for no merge.
const Bpe::MergeSlot& Bpe::find_merge(TokenId left, TokenId right) const {
  std::uint64_t pair = pair_of(left, right);
  std::size_t i = hash_pair(pair) & merge_mask_;
  while (merges_[i].merged >= 0 && merges_[i].pair != pair) i = (i + 1) & merge_mask_;
  return merges_[i];
}

}  // namespace fastgen
