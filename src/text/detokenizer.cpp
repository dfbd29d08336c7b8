#include "text/detokenizer.h"

#include <fmt/format.h>

#include <utility>

#include "text/utf8.h"
#include "text/vocab.h"

namespace fastgen {

namespace {

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

}  // namespace

DecoderPlan::DecoderPlan(const JsonPart& config) {
  bool fused = false;
  if (config.at("type").string() == "Sequence") {
    for (const JsonPart& part : config.at("decoders").items()) add(part, fused);
  } else {
    add(config, fused);
  }
}

// The decoders that work on single tokens come in the order Replace..., Metaspace or ByteFallback, Fuse,
// Strip.
void DecoderPlan::add(const JsonPart& config, bool& fused) {
  std::string_view type = config.at("type").string();
  bool untouched = bytes == Bytes::kPlain && metaspace.empty() && !fused;
  if (type == "Fuse") {
    fused = true;
  } else if (type == "Strip") {
    add_strip(config, fused);
  } else if (type == "Replace" && untouched) {
    replaces.push_back({std::string(config.at("pattern").at("String").string()),
                        std::string(config.at("content").string())});
    if (replaces.back().from.empty()) config.fail("has an empty pattern");
  } else if (type == "ByteFallback" && untouched) {
    bytes = Bytes::kByteFallback;
  } else if (type == "ByteLevel" && untouched && replaces.empty()) {
    bytes = Bytes::kByteLevel;
  } else if (type == "Metaspace" && untouched) {
    metaspace = config.string_or("replacement", "\u2581");
    bool prefix = config.boolean_or("add_prefix_space", true);
    drop_first_metaspace = config.string_or("prepend_scheme", prefix ? "always" : "never") != "never";
  } else {
    config.fail(fmt::format("decoder {} is not supported{}", type, untouched ? "" : " at this place"));
  }
}

void DecoderPlan::add_strip(const JsonPart& config, bool fused) {
  if (!fused || num_strip > 0) config.fail("decoder Strip is supported once, after Fuse");
  if (config.integer_or("stop", 0) != 0) config.fail("decoder Strip at the end (stop) is not supported");
  strip = config.at("content").string();
  num_strip = config.integer_or("start", 0);
  if (strip.empty() || num_strip < 0) config.fail("decoder Strip needs content and start >= 0");
}

int byte_token_value(std::string_view name) {
  if (name.size() != 6 || !name.starts_with("<0x") || name[5] != '>') return -1;
  int high = hex_value(name[3]), low = hex_value(name[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

TokenText token_text(const DecoderPlan& plan, std::string_view name, bool first) {
  std::string text;
  if (plan.bytes == DecoderPlan::Bytes::kByteLevel) {
    // Added tokens need not be written in the alphabet; then they stand for themselves.
    if (!append_name_bytes(text, name)) text = name;
    return {text};
  }
  text = name;
  for (const auto& replace : plan.replaces) replace_all(text, replace.from, replace.to);
  if (!plan.metaspace.empty())
    replace_all(text, plan.metaspace, first && plan.drop_first_metaspace ? "" : " ");
  int byte = plan.bytes == DecoderPlan::Bytes::kByteFallback ? byte_token_value(text) : -1;
  if (byte < 0) return {text};
  return {std::string(1, static_cast<char>(byte)), true};
}

void Detokenizer::push(std::string_view name, std::string& out) {
  bool first = std::exchange(first_, false);
  TokenText token = token_text(plan_, name, first);
  if (token.is_byte) {
    held_ += token.text;
    return;
  }
  if (plan_.bytes == DecoderPlan::Bytes::kByteLevel) return put_bytes(token.text, out);
  end_byte_run(out);
  if (!first) put(plan_.separator, out);
  put(token.text, out);
}

void Detokenizer::finish(std::string& out) {
  if (plan_.bytes == DecoderPlan::Bytes::kByteFallback) return end_byte_run(out);
  if (!held_.empty()) put(kReplacementChar, out);
  held_.clear();
}

void Detokenizer::put(std::string_view text, std::string& out) {
  while (strip_left_ > 0 && !text.empty()) {
    if (!text.starts_with(plan_.strip)) strip_left_ = 0;
    if (strip_left_ == 0) break;
    text.remove_prefix(plan_.strip.size());
    --strip_left_;
  }
  out += text;
}

// Passes on what is decided, and holds at most three bytes of an incomplete character.
void Detokenizer::put_bytes(std::string_view bytes, std::string& out) {
  held_ += bytes;
  std::size_t at = 0;
  while (at < held_.size()) {
    Utf8Step step = next_utf8(std::string_view(held_).substr(at));
    if (step.kind == Utf8Step::Kind::kIncomplete) break;
    put(step.kind == Utf8Step::Kind::kChar ? std::string_view(held_).substr(at, step.bytes)
                                           : kReplacementChar,
        out);
    at += step.bytes;
  }
  held_.erase(0, at);
}

void Detokenizer::end_byte_run(std::string& out) {
  if (is_utf8(held_)) {
    put(held_, out);
  } else {
    for (std::size_t i = 0; i < held_.size(); ++i) put(kReplacementChar, out);
  }
  held_.clear();
}

}  // namespace fastgen
