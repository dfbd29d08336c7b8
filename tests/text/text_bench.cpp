// How fast texts become tokens on one core, in time of the processor: text_bench FOLDER [TEXT_FILE]. Not a test: run it on a quiet machine.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include "base/read_file.h"
#include "fastgen/error.h"
#include "fastgen/text.h"

namespace fastgen {
namespace {

constexpr std::size_t kMegabyte = 1'000'000;
constexpr int kRounds = 7;

double seconds_of(const Tokenizer& tokenizer, const std::string& text, std::size_t& num_tokens) {
  const std::clock_t start = std::clock();
  num_tokens = tokenizer.encode(text).size();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

// The median of a few rounds; the first, in which memory is new, does not count.
void measure(const Tokenizer& tokenizer, const char* what, const std::string& text) {
  std::size_t num_tokens = 0;
  std::vector<double> seconds;
  seconds_of(tokenizer, text, num_tokens);
  for (int i = 0; i < kRounds; ++i) seconds.push_back(seconds_of(tokenizer, text, num_tokens));
  std::nth_element(seconds.begin(), seconds.begin() + kRounds / 2, seconds.end());
  std::printf("%-24s %5.1f MB/s  (%zu bytes, %zu tokens)\n", what, static_cast<double>(text.size()) / seconds[kRounds / 2] * 1e-6, text.size(),
              num_tokens);
}

std::string repeated(std::string_view part, std::size_t bytes) {
  std::string out;
  while (out.size() < bytes) out += part;
  return out;
}

int run(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: text_bench FOLDER [TEXT_FILE]\n");
    return 2;
  }
  const auto tokenizer = Tokenizer::load(argv[1]);
  if (argc > 2) measure(*tokenizer, "the file, to 4 MB", repeated(read_file(argv[2]), 4 * kMegabyte));
  measure(*tokenizer, "one English sentence", repeated("The quick brown fox jumps over the lazy dog, and then it sleeps. ", kMegabyte));
  // Hostile texts: one word of a million characters, runs of white space, of symbols, of characters without words.
  measure(*tokenizer, "one letter", repeated("a", kMegabyte));
  measure(*tokenizer, "two letters", repeated("ab", kMegabyte));
  measure(*tokenizer, "spaces", repeated(" ", kMegabyte));
  measure(*tokenizer, "newlines and spaces", repeated("\n \t", kMegabyte));
  measure(*tokenizer, "exclamation marks", repeated("!", kMegabyte));
  measure(*tokenizer, "digits", repeated("7", kMegabyte));
  measure(*tokenizer, "CJK", repeated("\u4f60\u597d\u4e16\u754c", kMegabyte));
  measure(*tokenizer, "combining marks", repeated("\u0301", kMegabyte));
  measure(*tokenizer, "invalid bytes", repeated("\xff", kMegabyte));
  return 0;
}

}  // namespace
}  // namespace fastgen

int main(int argc, char** argv) {
  try {
    return fastgen::run(argc, argv);
  } catch (const fastgen::Error& error) {
    std::fprintf(stderr, "text_bench: %s\n", error.what());
    return 1;
  }
}
