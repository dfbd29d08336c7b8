// Strings to token ids and back. Everything here is const after loading and safe to share between
// threads, but for TextStream, which belongs to one thread.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fastgen/types.h"

namespace fastgen {

// Half-open range of bytes.
struct ByteRange {
  std::size_t begin = 0;
  std::size_t end = 0;
};

// A rendered prompt that remembers which of its bytes the template wrote and which came from values
// (messages, tools). Control tokens match only where all their bytes are the template's own.
struct MarkedText {
  std::string text;
  std::vector<ByteRange> trusted;  // sorted, disjoint, not empty: bytes written by the template
};

// How Tokenizer::encode treats the text of control tokens ("<|im_end|>") that stands in the input.
enum class SpecialText {
  kAsTokens,  // they become the token (Hugging Face's default)
  kAsText,    // they stay text: ordinary tokens that spell the same characters
};

class Tokenizer {
 public:
  // Reads tokenizer.json in `folder`, else Mistral's tekken.json, else sentencepiece's tokenizer.model, and tokenizer_config.json
  // where present.
  // Throws Error naming the file and what is wrong or not supported.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& folder);
  // The same from the file's bytes; `name` stands in error messages. For tests and fuzzing.
  static std::shared_ptr<const Tokenizer> parse(std::string_view tokenizer_json, std::string_view name);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // `add_special`: with the post-processor's tokens (BOS, EOS). Invalid UTF-8 is replaced by U+FFFD first.
  std::vector<TokenId> encode(std::string_view text, bool add_special = false,
                              SpecialText special_text = SpecialText::kAsTokens) const;
  // One piece, special tokens only inside trusted bytes. `trust_content` turns the safety off.
  std::vector<TokenId> encode(const MarkedText& text, bool add_special = false, bool trust_content = false) const;

  // As Hugging Face decode with clean_up_tokenization_spaces=false; ids out of range are skipped.
  std::string decode(std::span<const TokenId> ids, bool skip_special = false) const;

  // Number of ids, added tokens included: every id is in [0, vocab_size).
  std::int32_t vocab_size() const;
  // The raw bytes that the token stands for in the middle of a text ("\xe2\x96" for half a character, " the").
  std::string token_bytes(TokenId id) const;
  std::optional<TokenId> find(std::string_view token) const;  // by its name in the vocabulary
  bool is_special(TokenId id) const;                            // marked special among the added tokens
  // From tokenizer_config.json; empty where not given.
  const std::string& bos_token() const;
  const std::string& eos_token() const;

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

// Token ids in, text out, one token at a time, with stop strings.
//
// Invariants: 1. every piece is valid UTF-8 and never ends within a character that later ids complete;
// 2. without a stop match, all pieces joined (finish() included) equal Tokenizer::decode(all ids);
// 3. text that might begin a stop string is held back until that is decided; 4. after a match nothing more
// comes out, and the text ends before the stop string (or after it, with include_stop).
// Not thread-safe. Work per token does not grow with the text so far.
class TextStream {
 public:
  struct Options {
    std::vector<std::string> stop{};  // none empty
    bool skip_special = true;
    bool include_stop = false;  // keep the stop string in the text (vLLM's include_stop_str_in_output)
  };
  TextStream(std::shared_ptr<const Tokenizer> tokenizer, Options options);
  ~TextStream();
  TextStream(TextStream&&) noexcept;
  TextStream& operator=(TextStream&&) noexcept;

  // Text that is now certain; empty while bytes or a possible stop string are held back.
  std::string push(TokenId id);
  // All that was held back; incomplete characters become U+FFFD. Call once, at the end.
  std::string finish();
  // A stop string was completed by the last push; its index in Options::stop.
  std::optional<std::size_t> stop_idx() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// What a template is rendered with. JSON texts are as the client sent them.
struct RenderInput {
  std::string messages_json{};   // array of messages
  std::string tools_json{};      // array or empty
  std::string documents_json{};  // array or empty
  std::string kwargs_json{};     // object of further variables (chat_template_kwargs) or empty
  bool add_generation_prompt = true;
  std::string bos_token{};
  std::string eos_token{};
  std::string now{};  // "2024-07-26 12:00:00" for strftime_now; empty: the local time
  std::string template_name{};  // one of ChatTemplate::names(); empty: "tool_use" with tools where there is one, else "default"
};

// A model's chat template, or several with names, in the Jinja2 dialect of Hugging Face transformers (trim_blocks, lstrip_blocks, loop
// controls, the tojson filter without HTML escaping, raise_exception, strftime_now, {% generation %}).
class ChatTemplate {
 public:
  // Throws Error "NAME:LINE: what" on a syntax error.
  static std::shared_ptr<const ChatTemplate> parse(std::string_view source, std::string_view name);
  // chat_template.jinja and additional_chat_templates/NAME.jinja, else chat_template in tokenizer_config.json (one, or a list of
  // named ones); null if the folder has none. Throws Error if there are several and none is the "default".
  static std::shared_ptr<const ChatTemplate> load(const std::filesystem::path& folder);
  // What a user asked for: one of the folder's named templates, which then renders where the input names none, else a Jinja file.
  static std::shared_ptr<const ChatTemplate> choose(const std::filesystem::path& folder, const std::string& name_or_file);
  // For a folder that has none: the format that the tokenizer's family is known to have, null if it is of no such family. There is one,
  // that of Mistral's tokenizers of version v3-tekken (Ministral 8B).
  static std::shared_ptr<const ChatTemplate> of_family(const Tokenizer& tokenizer);

  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // Those that RenderInput::template_name may name; none where the model has one template without a name.
  std::vector<std::string> names() const;

  // Throws Error: what raise_exception said, or the template's own mistake with its line. Bounded: depth,
  // loop turns and output size have limits, so that no template or message can hang or exhaust memory.
  MarkedText render(const RenderInput& input) const;

  struct Impl;

 private:
  static std::unique_ptr<Impl> read_folder(const std::filesystem::path& folder);
  explicit ChatTemplate(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace fastgen
