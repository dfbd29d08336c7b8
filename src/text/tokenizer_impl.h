// What a Tokenizer is made of, and how it is read from tokenizer.json.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fastgen/text.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/detokenizer.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/vocab.h"

namespace fastgen {

struct Tokenizer::Impl {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  DecoderPlan decoder;
  StringTable names;                  // all tokens by id, as the file writes them
  std::vector<std::uint8_t> special;  // [vocab_size] 1 where skip_special leaves the token out
  std::vector<AddedToken> added;
  std::unique_ptr<const AddedTokenFinder> raw_finder, normalized_finder;
  std::unique_ptr<const Bpe> bpe;
  std::vector<TokenId> prefix, suffix;  // what the post-processor puts around one text
  std::string bos_token, eos_token;     // from tokenizer_config.json

  Impl() = default;
  Impl(const Impl&) = delete;  // the finders hold on to `added`
  Impl& operator=(const Impl&) = delete;

  std::vector<TokenId> encode(MarkedPiece piece, bool add_special) const;
};

// `name` stands in error messages. Throws Error.
std::unique_ptr<Tokenizer::Impl> read_tokenizer(std::string_view tokenizer_json, std::string_view name);
// Adds what tokenizer_config.json says of bos_token and eos_token.
void read_tokenizer_config(std::string_view config_json, std::string_view name, Tokenizer::Impl& impl);

}  // namespace fastgen
