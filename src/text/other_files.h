// Tokenizers in other files than tokenizer.json, each turned into the text of one as transformers' converters do it, so that there
// is one tokenizer and not three: sentencepiece's tokenizer.model (a protocol buffer) and Mistral's tekken.json.
#pragma once

#include <string>
#include <string_view>

namespace fastgen {

// What tokenizer_config.json says of a tokenizer.model; the defaults are transformers' own.
struct SentencePieceOptions {
  bool add_bos = true;
  bool add_eos = false;
  // transformers before 4.31 put the space that begins a text also after each control token, and models of then expect it.
  bool legacy = true;
};
SentencePieceOptions read_sentencepiece_options(std::string_view tokenizer_config_json, std::string_view name);

// BPE models whose text is not normalized, as all of Llama's and Mistral's are; others are an Error that says so. `name` stands in
// messages. Foreign bytes: every length is checked before use.
std::string sentencepiece_to_json(std::string_view model, std::string_view name, const SentencePieceOptions& options);

std::string tekken_to_json(std::string_view tekken_json, std::string_view name);

}  // namespace fastgen
