#include "bench/chunk_reader.h"

#include <string>

#include "support/support.h"

namespace fastgen::bench {
namespace {

bool has_token(const std::string& choice) { return ChunkReader().read(R"({"choices": [)" + choice + "]}").has_token; }

}  // namespace

TEST_CASE("chunks: text is a token, and so is a chunk that says nothing: its bytes are held back for the next one") {
  CHECK(has_token(R"({"text": "a", "finish_reason": null})"));
  CHECK(has_token(R"({"text": "", "finish_reason": null})"));
  CHECK(has_token(R"({"text": "a", "finish_reason": "length"})"));
  CHECK(has_token(R"({"delta": {"content": "a"}, "finish_reason": null})"));
  CHECK(has_token(R"({"delta": {"role": "assistant", "content": "a"}})"));
  CHECK(has_token(R"({"delta": {}, "finish_reason": null})"));
}

TEST_CASE("chunks: the role alone, the reason alone and no choice are no token") {
  CHECK_FALSE(has_token(R"({"delta": {"role": "assistant", "content": ""}, "finish_reason": null})"));
  CHECK_FALSE(has_token(R"({"delta": {}, "finish_reason": "stop"})"));
  CHECK_FALSE(has_token(R"({"text": "", "finish_reason": "stop"})"));
  CHECK_FALSE(has_token(""));
  CHECK_FALSE(ChunkReader().read("{}").has_token);
}

TEST_CASE("chunks: usage counts where it is there") {
  ChunkReader reader;
  const ChunkFacts facts = reader.read(R"({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 30}})");
  CHECK(facts.prompt_tokens == 7);
  CHECK(facts.completion_tokens == 30);
  for (const char* none : {R"({"usage": null})", R"({"usage": {"prompt_tokens": "7"}})", "{}"}) {
    CHECK(reader.read(none).prompt_tokens == -1);
    CHECK(reader.read(none).completion_tokens == -1);
  }
}

TEST_CASE("chunks: an error and what is no JSON are failures") {
  ChunkReader reader;
  CHECK(reader.read(R"({"error": {"message": "gone"}})").failed);
  CHECK(reader.read("nonsense").failed);
  CHECK_FALSE(reader.read(R"({"error": null, "choices": []})").failed);
}

}  // namespace fastgen::bench
