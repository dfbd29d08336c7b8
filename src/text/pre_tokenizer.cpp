#include "text/pre_tokenizer.h"

#include <fmt/format.h>

#include <optional>
#include <string>

#include "text/char_class.h"
#include "text/regex.h"
#include "text/splitters.h"
#include "text/utf8.h"

namespace fastgen {

namespace {

// What becomes of the matches ("delimiters") of a splitting pattern, as Hugging Face names it.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior behavior_of(const JsonPart& part) {
  std::string_view name = part.string();
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  part.fail(fmt::format("behavior {} is not known", name));
}

// Cuts a word at matches that come from left to right, and joins the parts as the behavior says.
class Cutter {
 public:
  Cutter(const Word& word, Behavior behavior, bool invert, std::vector<Word>& out)
      : word_(word), behavior_(behavior), invert_(invert), out_(out) {}

  void match(std::size_t begin, std::size_t end) {
    if (begin > done_) part(done_, begin, invert_);
    part(begin, end, !invert_);
    done_ = end;
  }
  void finish() {
    if (done_ < word_.text.size()) part(done_, word_.text.size(), invert_);
    flush();
  }

 private:
  void part(std::size_t begin, std::size_t end, bool is_match) {
    if (joins(is_match)) {
      end_ = end;
    } else {
      flush();
      begin_ = begin, end_ = end;
    }
    before_ = is_match;
    if (is_match && behavior_ == Behavior::kRemoved) begin_ = end_ = end;
  }

  // Whether this part goes into the same word as the one before it.
  bool joins(bool is_match) const {
    switch (behavior_) {
      case Behavior::kContiguous:
        return is_match == before_;
      case Behavior::kMergedWithPrevious:
        return is_match && !before_;
      case Behavior::kMergedWithNext:
        return before_ && !is_match;
      default:
        return false;
    }
  }

  void flush() {
    if (begin_ < end_)
      out_.push_back({word_.text.substr(begin_, end_ - begin_), word_.at_start && begin_ == 0});
    begin_ = end_;
  }

  const Word& word_;
  Behavior behavior_;
  bool invert_;
  std::vector<Word>& out_;
  std::size_t done_ = 0, begin_ = 0, end_ = 0;
  bool before_ = false;
};

class WordSplitterStep : public PreTokenizer::Step {
 public:
  explicit WordSplitterStep(WordSplitter first_word) : first_word_(first_word) {}
  void split(const Word& in, std::vector<Word>& out, TextArena&) const override {
    for (std::size_t at = 0; at < in.text.size();) {
      std::size_t bytes = first_word_(in.text.substr(at));
      out.push_back({in.text.substr(at, bytes), in.at_start && at == 0});
      at += bytes;
    }
  }

 private:
  WordSplitter first_word_;
};

class RegexStep : public PreTokenizer::Step {
 public:
  RegexStep(Regex regex, Behavior behavior, bool invert)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {}
  void split(const Word& in, std::vector<Word>& out, TextArena&) const override {
    Cutter cutter(in, behavior_, invert_, out);
    Regex::Search search(regex_, in.text);
    while (auto match = search.next()) cutter.match(match->begin, match->end);
    cutter.finish();
  }

 private:
  Regex regex_;
  Behavior behavior_;
  bool invert_;
};

class StringStep : public PreTokenizer::Step {
 public:
  StringStep(std::string_view pattern, Behavior behavior, bool invert)
      : pattern_(pattern), behavior_(behavior), invert_(invert) {}
  void split(const Word& in, std::vector<Word>& out, TextArena&) const override {
    Cutter cutter(in, behavior_, invert_, out);
    for (std::size_t hit = in.text.find(pattern_); hit != std::string_view::npos;) {
      cutter.match(hit, hit + pattern_.size());
      hit = in.text.find(pattern_, hit + pattern_.size());
    }
    cutter.finish();
  }

 private:
  std::string pattern_;
  Behavior behavior_;
  bool invert_;
};

// Cuts at single characters of a kind.
class CharStep : public PreTokenizer::Step {
 public:
  using Predicate = bool (*)(char32_t);
  CharStep(Predicate is_match, Behavior behavior) : is_match_(is_match), behavior_(behavior) {}
  void split(const Word& in, std::vector<Word>& out, TextArena&) const override {
    Cutter cutter(in, behavior_, false, out);
    for (std::size_t at = 0; at < in.text.size();) {
      Utf8Char c = decode_utf8(in.text.data() + at);
      if (is_match_(c.code)) cutter.match(at, at + c.bytes);
      at += c.bytes;
    }
    cutter.finish();
  }

 private:
  Predicate is_match_;
  Behavior behavior_;
};

class PrefixSpaceStep : public PreTokenizer::Step {
 public:
  void split(const Word& in, std::vector<Word>& out, TextArena& arena) const override {
    if (in.text.starts_with(' ')) return out.push_back(in);
    out.push_back({arena.emplace_back(" " + std::string(in.text)), in.at_start});
  }
};

class MetaspaceStep : public PreTokenizer::Step {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  MetaspaceStep(std::string_view replacement, Prepend prepend, bool split)
      : replacement_(replacement), prepend_(prepend), split_(split) {}

  void split(const Word& in, std::vector<Word>& out, TextArena& arena) const override {
    std::string text;
    text.reserve(in.text.size() + in.text.size() / 2);
    for (char c : in.text) c == ' ' ? text += replacement_ : text += c;
    bool wanted = prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && in.at_start);
    if (wanted && !text.starts_with(replacement_)) text.insert(0, replacement_);
    Word word{arena.emplace_back(std::move(text)), in.at_start};
    if (!split_) return out.push_back(word);
    StringStep(replacement_, Behavior::kMergedWithNext, false).split(word, out, arena);
  }

 private:
  std::string replacement_;
  Prepend prepend_;
  bool split_;
};

std::unique_ptr<const PreTokenizer::Step> make_split(const JsonPart& config) {
  Behavior behavior = behavior_of(config.at("behavior"));
  bool invert = config.boolean_or("invert", false);
  JsonPart pattern = config.at("pattern");
  auto regex = pattern.find("Regex");
  if (!regex) {
    std::string_view text = pattern.at("String").string();
    if (text.empty()) pattern.fail("must not be empty");
    return std::make_unique<StringStep>(text, behavior, invert);
  }
  const HandWritten splitter = find_splitter(regex->string());
  // Where a pattern leaves no gaps, Isolated and its inverted Removed are the same.
  const bool plain = behavior == Behavior::kIsolated || (behavior == Behavior::kRemoved && invert && !splitter.leaves_gaps);
  if (plain && splitter.first_word) return std::make_unique<WordSplitterStep>(splitter.first_word);
  return std::make_unique<RegexStep>(read_regex(*regex, "pre_tokenizer Split"), behavior, invert);
}

std::unique_ptr<const PreTokenizer::Step> make_metaspace(const JsonPart& config) {
  using Prepend = MetaspaceStep::Prepend;
  std::string_view replacement = config.string_or("replacement", "\u2581");
  // Before prepend_scheme there was add_prefix_space.
  std::string_view scheme =
      config.string_or("prepend_scheme", config.boolean_or("add_prefix_space", true) ? "always" : "never");
  Prepend prepend = scheme == "always"  ? Prepend::kAlways
                    : scheme == "first" ? Prepend::kFirst
                                        : Prepend::kNever;
  if (prepend == Prepend::kNever && scheme != "never") config.fail("has an unknown prepend_scheme");
  if (replacement.empty()) config.fail("has an empty replacement");
  return std::make_unique<MetaspaceStep>(replacement, prepend, config.boolean_or("split", true));
}

}  // namespace

PreTokenizer::PreTokenizer(const JsonPart& config) { add(config); }

void PreTokenizer::add(const JsonPart& config) {
  std::string_view type = config.at("type").string();
  // Words behind ByteLevel are in its alphabet, which nothing else here can read.
  if (byte_level_) config.fail(fmt::format("pre-tokenizer {} after ByteLevel is not supported", type));
  if (type == "Sequence") {
    for (const JsonPart& part : config.at("pretokenizers").items()) add(part);
  } else if (type == "ByteLevel") {
    add_byte_level(config);
  } else if (type == "Split") {
    steps_.push_back(make_split(config));
  } else if (type == "Digits") {
    bool alone = config.boolean_or("individual_digits", false);
    auto is_digit = [](char32_t c) { return char_class(c) == kNumber; };
    steps_.push_back(
        std::make_unique<CharStep>(is_digit, alone ? Behavior::kIsolated : Behavior::kContiguous));
  } else if (type == "Metaspace") {
    steps_.push_back(make_metaspace(config));
  } else if (type == "WhitespaceSplit") {
    steps_.push_back(std::make_unique<CharStep>(is_white_space, Behavior::kRemoved));
  } else if (type == "Punctuation") {
    auto behavior = config.find("behavior");
    steps_.push_back(
        std::make_unique<CharStep>(is_punctuation, behavior ? behavior_of(*behavior) : Behavior::kIsolated));
  } else {
    config.fail(fmt::format("pre-tokenizer {} is not supported", type));
  }
}

void PreTokenizer::add_byte_level(const JsonPart& config) {
  if (config.boolean_or("add_prefix_space", true)) steps_.push_back(std::make_unique<PrefixSpaceStep>());
  if (config.boolean_or("use_regex", true)) steps_.push_back(std::make_unique<WordSplitterStep>(gpt2_word));
  byte_level_ = true;
}

void PreTokenizer::split(const Word& text, std::vector<Word>& words, std::vector<Word>& scratch,
                         TextArena& arena) const {
  words.clear();
  if (!text.text.empty()) words.push_back(text);
  for (const auto& step : steps_) {
    scratch.clear();
    for (const Word& word : words) step->split(word, scratch, arena);
    words.swap(scratch);
  }
}

}  // namespace fastgen
