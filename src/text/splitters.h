// Hand-written forms of the splitting patterns that most models use, several times faster than a regex
// engine. Each returns the length in bytes of the first match of its pattern in `text`, which is not empty
// and valid UTF-8; but for DeepSeek's, the patterns leave nothing out, so that calling again on the rest cuts the whole text into
// words.
#pragma once

#include <cstddef>
#include <string_view>

namespace fastgen {

// GPT-2 (Radford et al. 2019); ByteLevel's use_regex.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
std::size_t gpt2_word(std::string_view text);

inline constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
std::size_t llama3_word(std::string_view text);

inline constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
std::size_t qwen2_word(std::string_view text);

// Mistral's newer ones. Marks (\p{M}) are letters of both cases here, and symbols too.
inline constexpr std::string_view kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
std::size_t tekken_word(std::string_view text);

// DeepSeek-V3's three, which cut one after the other: numbers, then Han and kana, then the rest. These leave characters out (what is no
// number; control characters): for them the functions return what lies before the next match.
inline constexpr std::string_view kNumbersPattern = R"(\p{N}{1,3})";
std::size_t numbers_word(std::string_view text);
inline constexpr std::string_view kHanKanaPattern = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
std::size_t han_kana_word(std::string_view text);
inline constexpr std::string_view kDeepSeekPattern =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
std::size_t deepseek_word(std::string_view text);

using WordSplitter = std::size_t (*)(std::string_view text);
struct HandWritten {
  WordSplitter first_word = nullptr;  // null: the pattern has no hand-written form
  bool leaves_gaps = false;           // words between matches come too, so that matches are known by their place alone
};
// A newline may stand in the pattern itself, instead of as \n.
HandWritten find_splitter(std::string_view pattern);

}  // namespace fastgen
