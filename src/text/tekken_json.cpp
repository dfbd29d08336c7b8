#include <fmt/format.h>

#include <array>
#include <set>

#include "base/json_writer.h"
#include "fastgen/error.h"
#include "text/derived_merges.h"
#include "text/json_part.h"
#include "text/other_files.h"
#include "text/utf8.h"
#include "text/vocab.h"

namespace fastgen {

namespace {

constexpr std::int64_t kMaxVocab = 1 << 22;

// Files of versions before v7 do not list their control tokens; mistral-common knows them. It also names the three that v7 added
// ([SYSTEM_PROMPT] and on), which these models never saw: here they are fillers, as in the tokenizer.json of Ministral.
constexpr std::array<std::string_view, 17> kEarlyTokens = {
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]",
    "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"};

// RFC 4648, with padding.
std::string decode_base64(std::string_view text, const JsonPart& where) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  std::uint32_t bits = 0;
  int num_bits = 0;
  while (text.ends_with('=')) text.remove_suffix(1);
  for (char c : text) {
    const std::size_t value = kAlphabet.find(c);
    if (value == std::string_view::npos) where.fail("is not base64");
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    num_bits += 6;
    if (num_bits < 8) continue;
    num_bits -= 8;
    out += static_cast<char>(bits >> num_bits & 0xFF);
  }
  return out;
}

// The printable name of a token's bytes, as byte-level vocabularies are written.
std::string byte_name(std::string_view bytes) {
  std::string out;
  for (char c : bytes) append_utf8(out, byte_to_char(static_cast<unsigned char>(c)));
  return out;
}

class Tekken {
 public:
  explicit Tekken(const JsonPart& root) : root_(root), config_(root.at("config")) {
    num_special_ = count("default_num_special_tokens");
    vocab_size_ = count("default_vocab_size");
    if (vocab_size_ <= num_special_) config_.fail("default_vocab_size must be over default_num_special_tokens");
    read_special();
    read_tokens();
  }

  std::string json() const {
    std::string out;
    JsonWriter json(out);
    json.begin_object();
    write_added_tokens(json);
    write_splitting(json);
    json.key("decoder").begin_object().field("type", "ByteLevel").end_object();
    json.key("post_processor").raw(fmt::format(
        R"({{"type":"TemplateProcessing","single":[{{"SpecialToken":{{"id":"<s>"}}}},{{"Sequence":{{"id":"A"}}}}],"special_tokens":{{"<s>":{{"ids":[{}]}}}}}})",
        bos_id_));
    write_model(json);
    json.end_object();
    return out;
  }

 private:
  std::int64_t count(const char* key) const {
    const std::int64_t value = config_.at(key).integer();
    if (value < 1 || value > kMaxVocab) config_.fail(fmt::format("{} is {}, outside 1 to {}", key, value, kMaxVocab));
    return value;
  }

  void read_special() {
    special_.resize(static_cast<std::size_t>(num_special_));
    std::set<std::string, std::less<>> names;
    const auto set = [&](std::int64_t id, std::string_view name, const JsonPart& where) {
      if (id < 0 || id >= num_special_) where.fail(fmt::format("rank {} is not below default_num_special_tokens", id));
      if (name.empty() || !names.emplace(name).second) where.fail(fmt::format("control token \"{}\" is empty or stands twice", name));
      special_[static_cast<std::size_t>(id)] = name;
      if (name == "<s>") bos_id_ = id;
    };
    if (const auto list = root_.find("special_tokens")) {
      for (const JsonPart& token : list->items()) set(token.at("rank").integer(), token.at("token_str").string(), token);
    } else {
      for (std::size_t i = 0; i < kEarlyTokens.size() && i < special_.size(); ++i) set(static_cast<std::int64_t>(i), kEarlyTokens[i], root_);
    }
    for (std::size_t i = 0; i < special_.size(); ++i)
      if (special_[i].empty()) special_[i] = fmt::format("<SPECIAL_{}>", i);
    if (bos_id_ < 0) root_.fail("has no control token <s>");
  }

  // The first ones, up to the vocabulary's size: files hold more than the models know.
  void read_tokens() {
    const std::int64_t wanted = vocab_size_ - num_special_;
    std::int64_t rank = 0;
    for (const JsonPart& token : root_.at("vocab").items()) {
      if (rank == wanted) return;
      if (token.at("rank").integer() != rank) token.fail(fmt::format("has another rank than its place, {}", rank));
      names_.push_back(byte_name(decode_base64(token.at("token_bytes").string(), token)));
      if (names_.back().empty()) token.fail("is empty");
      ++rank;
    }
    if (rank < wanted) root_.fail(fmt::format("vocab has {} tokens, config asks for {}", rank, wanted));
  }

  void write_added_tokens(JsonWriter& json) const {
    json.key("added_tokens").begin_array();
    for (std::size_t id = 0; id < special_.size(); ++id)
      json.begin_object().field("id", id).field("content", special_[id]).field("special", true).field("normalized", false).end_object();
    json.end_array();
  }

  void write_splitting(JsonWriter& json) const {
    json.key("pre_tokenizer").begin_object().field("type", "Sequence").key("pretokenizers").begin_array();
    json.begin_object().field("type", "Split").key("pattern").begin_object().field("Regex", config_.at("pattern").string()).end_object();
    json.field("behavior", "Isolated").end_object();
    json.begin_object().field("type", "ByteLevel").field("add_prefix_space", false).field("use_regex", false).end_object();
    json.end_array().end_object();
  }

  // A word that is a token is that token: tiktoken, whose order of merging this is, looks there first.
  void write_model(JsonWriter& json) const {
    std::vector<Mergeable> tokens;
    json.key("model").begin_object().field("type", "BPE").field("ignore_merges", true).key("vocab").begin_object();
    for (std::size_t rank = 0; rank < names_.size(); ++rank) {
      const std::int64_t id = num_special_ + static_cast<std::int64_t>(rank);
      json.field(names_[rank], id);
      tokens.push_back({names_[rank], static_cast<std::int32_t>(id), -static_cast<double>(rank)});
    }
    json.end_object();
    write_derived_merges(json, tokens, tokens);
    json.end_object();
  }

  JsonPart root_, config_;
  std::int64_t num_special_ = 0, vocab_size_ = 0, bos_id_ = -1;
  std::vector<std::string> special_;  // by id
  std::vector<std::string> names_;    // by rank
};

}  // namespace

std::string tekken_to_json(std::string_view tekken_json, std::string_view name) {
  const JsonDocument document(tekken_json, name);
  return Tekken(document.root()).json();
}

}  // namespace fastgen
