#include <fmt/format.h>

#include "base/check.h"
#include "base/read_file.h"
#include "fastgen/error.h"
#include "text/other_files.h"
#include "text/tokenizer_impl.h"
#include "text/utf8.h"

namespace fastgen {

namespace fs = std::filesystem;

namespace {

std::string trust_mask(const MarkedText& marked) {
  std::string mask(marked.text.size(), '\0');
  for (ByteRange range : marked.trusted) {
    FG_CHECK(range.begin <= range.end && range.end <= mask.size(), range.begin, range.end, mask.size());
    std::fill(mask.begin() + range.begin, mask.begin() + range.end, '\1');
  }
  return mask;
}

// tokenizer.json says the most; where it is missing, Mistral's own file, then sentencepiece's.
std::unique_ptr<Tokenizer::Impl> read_any_file(const fs::path& folder, const std::string& config_json) {
  const fs::path json = folder / "tokenizer.json", tekken = folder / "tekken.json", model = folder / "tokenizer.model";
  if (fs::exists(json)) return read_tokenizer(read_file(json), json.string());
  std::unique_ptr<Tokenizer::Impl> impl;
  if (fs::exists(tekken)) {
    impl = read_tokenizer(tekken_to_json(read_file(tekken), tekken.string()), tekken.string());
  } else if (fs::exists(model)) {
    const SentencePieceOptions options = read_sentencepiece_options(config_json, (folder / "tokenizer_config.json").string());
    impl = read_tokenizer(sentencepiece_to_json(read_file(model), model.string(), options), model.string());
  } else {
    throw Error(fmt::format("{}: no tokenizer.json there, nor tekken.json or tokenizer.model", folder.string()));
  }
  if (impl->names.find("<s>")) impl->bos_token = "<s>";
  if (impl->names.find("</s>")) impl->eos_token = "</s>";
  return impl;
}

// Ill-formed bytes become U+FFFD.
MarkedPiece made_valid(const MarkedPiece& piece, TextArena& arena) {
  if (is_utf8(piece.text)) return piece;
  PieceRewriter out(piece);
  for (std::size_t at = 0; at < piece.text.size();) {
    Utf8Step step = next_utf8(piece.text.substr(at));
    bool valid = step.kind == Utf8Step::Kind::kChar;
    valid ? out.keep(at, at + step.bytes) : out.put(at, at + step.bytes, kReplacementChar);
    at += step.bytes;
  }
  return out.finish(arena);
}

}  // namespace

std::vector<TokenId> Tokenizer::Impl::encode(MarkedPiece piece, bool add_special) const {
  TextArena arena;
  Bpe::ScratchPtr scratch = Bpe::make_scratch();
  std::vector<Word> words, word_scratch;
  std::vector<TokenId> ids;
  if (add_special) ids = prefix;

  auto encode_normalized = [&](const MarkedPiece& text) {
    pre_tokenizer.split({text.text, text.at_start}, words, word_scratch, arena);
    for (const Word& word : words) bpe->encode(word.text, ids, *scratch);
  };
  // Tokens looked for in raw text come first; what lies between is normalized and searched for the others.
  std::vector<AddedTokenFinder::Segment> raw_segments, segments;
  raw_finder->split(made_valid(piece, arena), raw_segments);
  for (const auto& raw : raw_segments) {
    if (raw.id >= 0) {
      ids.push_back(raw.id);
      continue;
    }
    segments.clear();
    normalized_finder->split(normalizer.apply(raw.piece, arena), segments);
    for (const auto& segment : segments) {
      segment.id >= 0 ? ids.push_back(segment.id) : encode_normalized(segment.piece);
    }
  }
  if (add_special) ids.insert(ids.end(), suffix.begin(), suffix.end());
  return ids;
}

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::load(const fs::path& folder) {
  const fs::path config = folder / "tokenizer_config.json";
  const std::string config_json = fs::exists(config) ? read_file(config) : "{}";
  auto impl = read_any_file(folder, config_json);
  read_tokenizer_config(config_json, config.string(), *impl);
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

std::shared_ptr<const Tokenizer> Tokenizer::parse(std::string_view tokenizer_json, std::string_view name) {
  return std::shared_ptr<const Tokenizer>(new Tokenizer(read_tokenizer(tokenizer_json, name)));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special,
                                       SpecialText special_text) const {
  std::string mask;
  if (special_text == SpecialText::kAsText) mask.assign(text.size(), '\0');
  return impl_->encode({text, mask, true}, add_special);
}

std::vector<TokenId> Tokenizer::encode(const MarkedText& text, bool add_special, bool trust_content) const {
  std::string mask;
  if (!trust_content) mask = trust_mask(text);
  return impl_->encode({text.text, mask, true}, add_special);
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string out;
  Detokenizer detokenizer(impl_->decoder);
  for (TokenId id : ids) {
    if (impl_->names.has(id) && !(skip_special && impl_->special[id]))
      detokenizer.push(impl_->names.at(id), out);
  }
  detokenizer.finish(out);
  return out;
}

std::int32_t Tokenizer::vocab_size() const { return impl_->names.size(); }

std::string Tokenizer::token_bytes(TokenId id) const {
  return impl_->names.has(id) ? token_text(impl_->decoder, impl_->names.at(id), false).text : std::string();
}

std::optional<TokenId> Tokenizer::find(std::string_view token) const { return impl_->names.find(token); }
bool Tokenizer::is_special(TokenId id) const { return impl_->names.has(id) && impl_->special[id] != 0; }
const std::string& Tokenizer::bos_token() const { return impl_->bos_token; }
const std::string& Tokenizer::eos_token() const { return impl_->eos_token; }

}  // namespace fastgen
