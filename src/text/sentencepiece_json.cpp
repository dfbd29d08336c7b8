#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "base/json_writer.h"
#include "fastgen/error.h"
#include "text/derived_merges.h"
#include "text/json_part.h"
#include "text/other_files.h"
#include "text/sentencepiece_file.h"

namespace fastgen {

namespace {

using Kind = SentencePieceFile::Kind;
using Piece = SentencePieceFile::Piece;

constexpr const char* kMetaspace = "\u2581";

void refuse_unsupported(const SentencePieceFile& file, std::string_view name) {
  const auto refuse = [&](const char* what) { throw Error(fmt::format("{}: {}; use a folder with tokenizer.json", name, what)); };
  if (!file.is_bpe) refuse("is not a BPE model, and no other kind is supported");
  if (file.has_charsmap) refuse("normalizes text by a table, which is not supported");
  if (file.remove_extra_whitespaces) refuse("removes white space (remove_extra_whitespaces), which is not supported");
  if (!file.escape_whitespaces) refuse("does not escape white space, which is not supported");
}

// Llama 3's own files have a tokenizer.model too: lines of a token in base64, a space and its rank. Control tokens and the splitting
// pattern are not in it but in a program.
bool is_tiktoken(std::string_view model) {
  const std::string_view line = model.substr(0, std::min<std::size_t>(model.find('\n'), 256));
  const std::size_t space = line.find(' ');
  if (space == 0 || space == std::string_view::npos || space + 1 == line.size()) return false;
  const auto is_base64 = [](unsigned char c) { return std::isalnum(c) != 0 || c == '+' || c == '/' || c == '='; };
  const auto is_digit = [](unsigned char c) { return c >= '0' && c <= '9'; };
  return std::all_of(line.begin(), line.begin() + static_cast<std::ptrdiff_t>(space), is_base64) &&
         std::all_of(line.begin() + static_cast<std::ptrdiff_t>(space) + 1, line.end(), is_digit);
}

// Control tokens, the unknown one and symbols of the model's makers; all are found in raw text.
void write_added_tokens(JsonWriter& json, const SentencePieceFile& file) {
  json.key("added_tokens").begin_array();
  for (std::size_t id = 0; id < file.pieces.size(); ++id) {
    const Piece& piece = file.pieces[id];
    const bool special = piece.kind == Kind::kControl || piece.kind == Kind::kUnknown;
    if (!special && piece.kind != Kind::kUserDefined) continue;
    json.begin_object().field("id", id).field("content", piece.name).field("special", special).field("normalized", false).end_object();
  }
  json.end_array();
}

void write_spaces(JsonWriter& json, const SentencePieceFile& file, bool legacy) {
  if (!legacy) {
    json.key("pre_tokenizer").begin_object().field("type", "Metaspace").field("replacement", kMetaspace);
    json.field("prepend_scheme", file.add_dummy_prefix ? "first" : "never").field("split", false).end_object();
    return;
  }
  json.key("normalizer").begin_object().field("type", "Sequence").key("normalizers").begin_array();
  if (file.add_dummy_prefix) json.begin_object().field("type", "Prepend").field("prepend", kMetaspace).end_object();
  json.begin_object().field("type", "Replace").key("pattern").begin_object().field("String", " ").end_object();
  json.field("content", kMetaspace).end_object().end_array().end_object();
}

void write_decoder(JsonWriter& json, const SentencePieceFile& file) {
  json.key("decoder").begin_object().field("type", "Sequence").key("decoders").begin_array();
  json.begin_object().field("type", "Replace").key("pattern").begin_object().field("String", kMetaspace).end_object();
  json.field("content", " ").end_object();
  json.begin_object().field("type", "ByteFallback").end_object();
  json.begin_object().field("type", "Fuse").end_object();
  if (file.add_dummy_prefix) json.begin_object().field("type", "Strip").field("content", " ").field("start", 1).field("stop", 0).end_object();
  json.end_array().end_object();
}

void write_special(JsonWriter& json, const char* name) {
  json.begin_object().key("SpecialToken").begin_object().field("id", name).end_object().end_object();
}

// <s> and </s> around a text, where the vocabulary has them.
void write_post_processor(JsonWriter& json, const SentencePieceFile& file, const SentencePieceOptions& options) {
  const auto id_of = [&](std::string_view name) {
    for (std::size_t id = 0; id < file.pieces.size(); ++id)
      if (file.pieces[id].kind == Kind::kControl && file.pieces[id].name == name) return static_cast<std::int64_t>(id);
    return std::int64_t{-1};
  };
  const std::int64_t bos = options.add_bos ? id_of("<s>") : -1, eos = options.add_eos ? id_of("</s>") : -1;
  json.key("post_processor").begin_object().field("type", "TemplateProcessing").key("single").begin_array();
  if (bos >= 0) write_special(json, "<s>");
  json.begin_object().key("Sequence").begin_object().field("id", "A").end_object().end_object();
  if (eos >= 0) write_special(json, "</s>");
  json.end_array().key("special_tokens").begin_object();
  if (bos >= 0) json.key("<s>").begin_object().key("ids").begin_array().value(bos).end_array().end_object();
  if (eos >= 0) json.key("</s>").begin_object().key("ids").begin_array().value(eos).end_array().end_object();
  json.end_object().end_object();
}

void write_model(JsonWriter& json, const SentencePieceFile& file) {
  json.key("model").begin_object().field("type", "BPE").field("byte_fallback", file.byte_fallback).field("fuse_unk", true);
  std::vector<Mergeable> made, parts;
  json.key("vocab").begin_object();
  for (std::size_t id = 0; id < file.pieces.size(); ++id) {
    const Piece& piece = file.pieces[id];
    json.field(piece.name, id);
    const Mergeable token{piece.name, static_cast<std::int32_t>(id), piece.score};
    if (piece.kind == Kind::kNormal || piece.kind == Kind::kUserDefined) parts.push_back(token);
    if (piece.kind == Kind::kNormal) made.push_back(token);
  }
  json.end_object();
  for (const Piece& piece : file.pieces)
    if (piece.kind == Kind::kUnknown) json.field("unk_token", piece.name);
  write_derived_merges(json, made, parts);
  json.end_object();
}

}  // namespace

SentencePieceOptions read_sentencepiece_options(std::string_view tokenizer_config_json, std::string_view name) {
  namespace ondemand = simdjson::ondemand;
  SentencePieceOptions options;
  const simdjson::padded_string padded(tokenizer_config_json);
  ondemand::parser parser;
  try {
    ondemand::document document = parser.iterate(padded);
    for (ondemand::field field : document.get_object()) {
      const std::string_view key = field.unescaped_key();
      bool* const option = key == "add_bos_token" ? &options.add_bos : key == "add_eos_token" ? &options.add_eos : key == "legacy" ? &options.legacy : nullptr;
      if (option == nullptr) continue;
      ondemand::value value = field.value();
      if (!value.is_null()) *option = value.get_bool();
    }
  } catch (const simdjson::simdjson_error& error) {
    throw Error(fmt::format("{}: add_bos_token, add_eos_token or legacy cannot be read: {}", name, error.what()));
  }
  return options;
}

std::string sentencepiece_to_json(std::string_view model, std::string_view name, const SentencePieceOptions& options) {
  if (is_tiktoken(model)) throw Error(fmt::format("{}: is tiktoken's format, which lacks the control tokens; use a folder with tokenizer.json", name));
  const SentencePieceFile file = read_sentencepiece_file(model, name);
  refuse_unsupported(file, name);
  std::set<std::string_view> names;
  for (const Piece& piece : file.pieces)
    if (!names.insert(piece.name).second) throw Error(fmt::format("{}: piece {} stands twice", name, piece.name));
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  write_added_tokens(json, file);
  write_spaces(json, file, options.legacy);
  write_decoder(json, file);
  write_post_processor(json, file, options);
  write_model(json, file);
  json.end_object();
  return out;
}

}  // namespace fastgen
