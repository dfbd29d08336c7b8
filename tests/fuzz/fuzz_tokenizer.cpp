// Any bytes as tokenizer.json, tekken.json or tokenizer.model: they are refused with an Error, or make a tokenizer that keeps its promises.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "fastgen/error.h"
#include "fastgen/text.h"
#include "text/other_files.h"
#include "text/utf8.h"

namespace fastgen {
namespace {

constexpr std::string_view kTexts[] = {"Hello world, it's 12345!\n\n  x",
                                       "e\u0301\u1100\u1161 \u4f60 <s></s><|im_end|>", "\xff\xf0\x9f ab\xc3",
                                       "aaaaaaaaaaaaaaaa", "abababababababababababababababababababababab"};

void check_ids(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  for (TokenId id : ids) FG_CHECK(id >= 0 && id < tokenizer.vocab_size(), id, tokenizer.vocab_size());
}

void check_stream(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<TokenId>& ids) {
  TextStream stream(tokenizer, {.stop = {}, .skip_special = false});
  std::string joined;
  for (TokenId id : ids) {
    std::string piece = stream.push(id);
    FG_CHECK(is_utf8(piece), piece.size());
    joined += piece;
  }
  joined += stream.finish();
  FG_CHECK(joined == tokenizer->decode(ids), joined.size());
}

void use(const std::shared_ptr<const Tokenizer>& tokenizer, std::string_view json) {
  for (std::string_view text : kTexts) {
    auto ids = tokenizer->encode(text, true);
    check_ids(*tokenizer, ids);
    check_stream(tokenizer, ids);
    check_ids(*tokenizer, tokenizer->encode(MarkedText{std::string(text), {{1, 4}}}));
  }
  check_ids(*tokenizer, tokenizer->encode(json.substr(0, 300), true, SpecialText::kAsText));
  std::vector<TokenId> all;
  for (TokenId id = -1; id < 40; ++id) all.push_back(id);
  check_stream(tokenizer, all);
}

}  // namespace
}  // namespace fastgen

namespace {

template <typename ToJson>
void try_as(ToJson to_json) {
  try {
    const std::string json = to_json();
    fastgen::use(fastgen::Tokenizer::parse(json, "fuzz"), json);
  } catch (const fastgen::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try_as([&] { return std::string(bytes); });
  try_as([&] { return fastgen::tekken_to_json(bytes, "fuzz"); });
  try_as([&] { return fastgen::sentencepiece_to_json(bytes, "fuzz", {}); });
  return 0;
}
