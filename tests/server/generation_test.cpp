#include "server/generation.h"

#include <fmt/format.h>
#include <simdjson.h>

#include "support/support.h"

namespace fastgen::server {

namespace {

std::shared_ptr<const Tokenizer> tokenizer() {
  static const auto loaded = Tokenizer::load(test::golden() / "tokens" / "byte_level");
  return loaded;
}

// A generation whose engine is the test.
struct Driven {
  // `opens_thinking`: none leaves thinking in the text.
  explicit Driven(Endpoint endpoint, const std::string& body, std::vector<TokenId> eos_ids = {2}, std::optional<bool> opens_thinking = {}) {
    request = parse_api_request(endpoint, body);
    std::vector<Prompt> prompts(request.num_prompts(), Prompt{{5, 6, 7}, request.echo ? "PROMPT" : "", opens_thinking.value_or(false)});
    AnswerWriter writer(request, tokenizer(), "id-1", "m", 7);
    Generation::Environment environment{tokenizer(), std::move(eos_ids),
                                        [this](std::size_t p, std::int32_t c) { cancelled.emplace_back(p, c); }, [] {}, opens_thinking.has_value()};
    generation = std::make_unique<Generation>(request, std::move(prompts), std::move(writer), std::move(environment));
  }
  void send(EventKind kind, TokenId token, FinishReason reason = FinishReason::kNone, std::int32_t choice = 0, std::size_t prompt = 0,
            std::int32_t position = 0) {
    Event event;
    event.kind = kind;
    event.token = token;
    event.choice_idx = choice;
    event.reason = reason;
    event.position = position;
    event.logprob = logprob;
    event.step_us = step_us;
    const TopLogprob top[] = {{token, -0.5f}, {9, -1.5f}};
    generation->on_event(prompt, event, request.wants_logprobs ? std::span(top) : std::span<const TopLogprob>{});
  }
  void text(const std::string& words, std::int32_t choice = 0, std::size_t prompt = 0) {
    for (TokenId id : tokenizer()->encode(words)) send(EventKind::kToken, id, FinishReason::kNone, choice, prompt);
  }
  void finish(FinishReason reason, std::int32_t choice = 0, std::size_t prompt = 0) {
    send(EventKind::kFinish, 0, reason, choice, prompt);
  }

  float logprob = -0.5f;
  std::uint64_t step_us = 0;
  ApiRequest request;
  std::unique_ptr<Generation> generation;
  std::vector<std::pair<std::size_t, std::int32_t>> cancelled;
};

constexpr const char* kChatBody = R"({"messages":[{"role":"user","content":"x"}])";

std::string joined_text(const std::string& frames, const char* key) {
  std::string text;
  simdjson::dom::parser parser;
  for (std::size_t pos = 0; (pos = frames.find("data: {", pos)) != std::string::npos; ++pos) {
    const std::string json = frames.substr(pos + 6, frames.find("\n\n", pos) - pos - 6);
    simdjson::dom::element document = parser.parse(json);
    for (simdjson::dom::element choice : document["choices"].get_array()) {
      std::string_view piece;
      simdjson::dom::element holder = choice;
      if (std::string_view(key).ends_with("content")) holder = choice["delta"];
      if (!holder[key].get(piece)) text += piece;
    }
  }
  return text;
}

std::size_t count(const std::string& text, std::string_view part) {
  std::size_t n = 0;
  for (std::size_t pos = 0; (pos = text.find(part, pos)) != std::string::npos; ++pos) ++n;
  return n;
}

}  // namespace

TEST_CASE("thinking goes to reasoning_content, streamed or whole, and what is said after it to content") {
  Driven streamed(Endpoint::kChat, std::string(kChatBody) + R"(,"stream":true})", {2}, true);
  streamed.text("I add.\n</think>\n\nFour </think>");
  streamed.finish(FinishReason::kStop);
  CHECK(joined_text(streamed.generation->frames(), "reasoning_content") == "I add.");
  CHECK(joined_text(streamed.generation->frames(), "content") == "Four </think>");
  Driven whole(Endpoint::kChat, std::string(kChatBody) + "}", {2}, false);
  whole.text("<think>I add.\n</think>\n\nFour");
  whole.finish(FinishReason::kStop);
  CHECK(whole.generation->body().find(R"("message":{"role":"assistant","reasoning_content":"I add.","content":"Four")") != std::string::npos);
}

TEST_CASE("thinking that is cut off is all reasoning; without the split it is text") {
  Driven cut(Endpoint::kChat, std::string(kChatBody) + "}", {2}, true);
  cut.text("I think </thi");
  cut.finish(FinishReason::kLength);
  CHECK(cut.generation->body().find(R"("reasoning_content":"I think </thi","content":"")") != std::string::npos);
  Driven plain(Endpoint::kChat, std::string(kChatBody) + "}");
  plain.text("<think>a</think>b");
  plain.finish(FinishReason::kStop);
  CHECK(plain.generation->body().find(R"("message":{"role":"assistant","content":"<think>a</think>b")") != std::string::npos);
}

TEST_CASE("a chat answer is complete, and the end-of-sequence token is hidden but counted") {
  Driven driven(Endpoint::kChat, std::string(kChatBody) + "}");
  const auto num_tokens = tokenizer()->encode("Hello world").size();
  driven.text("Hello world");
  driven.send(EventKind::kToken, 2);
  CHECK_FALSE(driven.generation->done());
  driven.finish(FinishReason::kStop);
  REQUIRE(driven.generation->done());
  const std::string body = driven.generation->body();
  CHECK(body.starts_with(R"({"id":"id-1","object":"chat.completion","created":7,"model":"m","choices":[{"index":0,)"));
  CHECK(body.find(R"("content":"Hello world")") != std::string::npos);
  CHECK(body.find(R"("finish_reason":"stop")") != std::string::npos);
  CHECK(body.find(fmt::format(R"("prompt_tokens":3,"completion_tokens":{},)", num_tokens + 1)) != std::string::npos);
}

TEST_CASE("a stream: role first, pieces, reason, usage, DONE") {
  Driven driven(Endpoint::kChat, std::string(kChatBody) + R"(,"stream":true,"stream_options":{"include_usage":true}})");
  driven.text("Hello world");
  driven.finish(FinishReason::kLength);
  const std::string frames = driven.generation->frames();
  CHECK(joined_text(frames, "content") == "Hello world");
  CHECK(count(frames, R"("role":"assistant")") == 1);
  CHECK(count(frames, R"("finish_reason":"length")") == 1);
  CHECK(count(frames, R"("usage":null)") == count(frames, "data: {") - 1);
  CHECK(frames.find(R"("choices":[],"usage":{"prompt_tokens":3,)") != std::string::npos);
  CHECK(frames.ends_with("data: [DONE]\n\n"));
}

TEST_CASE("a stop string ends a choice once: engine cancelled, later tokens dropped everywhere") {
  for (const bool stream : {false, true}) {
    CAPTURE(stream);
    Driven driven(Endpoint::kCompletions, std::string(R"({"prompt":"x","stop":"lo w","return_token_ids":true)") +
                                              (stream ? R"(,"stream":true})" : "}"));
    driven.text("Hello world and more");
    CHECK(driven.cancelled == std::vector<std::pair<std::size_t, std::int32_t>>{{0, 0}});
    CHECK_FALSE(driven.generation->done());
    driven.finish(FinishReason::kCancelled);
    REQUIRE(driven.generation->done());
    CHECK_FALSE(driven.generation->error().has_value());
    const std::string out = stream ? driven.generation->frames() : driven.generation->body();
    CHECK(count(out, R"("finish_reason":"stop")") == 1);
    if (stream) CHECK(joined_text(out, "text") == "Hel");
    if (!stream) CHECK(out.find(R"("text":"Hel")") != std::string::npos);
  }
}

TEST_CASE("prompts and choices are numbered prompt by prompt") {
  Driven driven(Endpoint::kCompletions, R"({"prompt":["x","y"],"n":2})");
  for (std::size_t p = 0; p < 2; ++p)
    for (std::int32_t c = 0; c < 2; ++c) driven.text(fmt::format("p{}c{}", p, c), c, p);
  for (std::size_t p = 0; p < 2; ++p)
    for (std::int32_t c = 0; c < 2; ++c) driven.finish(FinishReason::kLength, 1 - c, p);
  const std::string body = driven.generation->body();
  for (const char* part : {R"("index":0,"text":"p0c0")", R"("index":1,"text":"p0c1")", R"("index":2,"text":"p1c0")",
                           R"("index":3,"text":"p1c1")", R"("prompt_tokens":6)"})
    CHECK(body.find(part) != std::string::npos);
}

TEST_CASE("echo with logprobs reports the prompt's tokens first, the first without a logprob") {
  Driven driven(Endpoint::kCompletions, R"({"prompt":"x","echo":true,"logprobs":1,"max_tokens":0})");
  driven.send(EventKind::kPromptToken, 6, FinishReason::kNone, 0, 0, 1);
  driven.send(EventKind::kPromptToken, 7, FinishReason::kNone, 0, 0, 2);
  driven.text("never shown");
  driven.finish(FinishReason::kLength);
  const std::string body = driven.generation->body();
  CHECK(body.find(R"("text":"PROMPT")") != std::string::npos);
  CHECK(body.find(R"("token_logprobs":[null,-0.5,-0.5])") != std::string::npos);
  CHECK(body.find(R"("top_logprobs":[null,{)") != std::string::npos);
  CHECK(body.find(R"("completion_tokens":0)") != std::string::npos);
}

TEST_CASE("an engine's error ends the stream with an error event") {
  Driven driven(Endpoint::kChat, std::string(kChatBody) + R"(,"stream":true,"n":2})");
  driven.text("Hello");
  driven.finish(FinishReason::kError, 1);
  CHECK(driven.generation->done());
  REQUIRE(driven.generation->error().has_value());
  CHECK(driven.generation->error()->status == 500);
  CHECK(driven.generation->frames().ends_with("data: [DONE]\n\n"));
  CHECK(count(driven.generation->frames(), R"(data: {"error":{)") == 1);
  CHECK(driven.cancelled.size() == 1);  // the other choice
}

TEST_CASE("a stopped engine is an error even for the last choice") {
  Driven driven(Endpoint::kChat, std::string(kChatBody) + "}");
  driven.finish(FinishReason::kCancelled);
  REQUIRE(driven.generation->error().has_value());
  CHECK(driven.generation->error()->status == 503);
}

TEST_CASE("chat logprobs: one entry for each token, bytes rebuild the text") {
  Driven driven(Endpoint::kChat, std::string(kChatBody) + R"(,"logprobs":true,"top_logprobs":2})");
  driven.text("h\xC3\xA9 \xF0\x9F\x98\x80");
  driven.finish(FinishReason::kLength);
  const std::string body = driven.generation->body();
  simdjson::dom::parser parser;
  simdjson::dom::element choice = parser.parse(body)["choices"].at(0);
  std::string bytes;
  for (simdjson::dom::element token : choice["logprobs"]["content"].get_array()) {
    for (std::int64_t byte : token["bytes"].get_array()) bytes += static_cast<char>(byte);
    CHECK(token["top_logprobs"].get_array().size() == 2);
  }
  CHECK(bytes == std::string_view(choice["message"]["content"]));
}

TEST_CASE("a slow reader's tokens are merged into one frame for each choice, and none is lost") {
  Driven driven(Endpoint::kChat, std::string(kChatBody) + R"(,"stream":true,"n":2})");
  driven.text("Hello");
  driven.generation->hold();
  const std::size_t before = count(driven.generation->frames(), "data: {");
  driven.text(" world", 0);
  driven.text("other", 1);
  driven.text(" again", 0);
  CHECK(count(driven.generation->frames(), "data: {") == before);
  CHECK(driven.generation->backlog_bytes() == driven.generation->frames().size() + 17);
  driven.generation->release();
  CHECK(count(driven.generation->frames(), "data: {") == before + 3);  // one each, and the other choice's first with its role
  driven.generation->hold();
  driven.text("!", 0);
  driven.finish(FinishReason::kLength, 0);
  driven.finish(FinishReason::kLength, 1);
  driven.generation->release();
  CHECK(joined_text(driven.generation->frames(), "content") == "Hello world againother!");
  CHECK(count(driven.generation->frames(), R"("finish_reason":"length")") == 2);
  CHECK(driven.generation->frames().ends_with("data: [DONE]\n\n"));
}

TEST_CASE("a prepared frame is the same as one written piece by piece") {
  for (const char* more : {R"(,"stream":true})", R"(,"stream":true,"stream_options":{"include_usage":true}})"}) {
    for (Endpoint endpoint : {Endpoint::kChat, Endpoint::kCompletions}) {
      const std::string body = (endpoint == Endpoint::kChat ? std::string(kChatBody) : std::string(R"({"prompt":"x")")) + more;
      const AnswerWriter writer(parse_api_request(endpoint, body), tokenizer(), "id-1", "a \"model\"", 7);
      REQUIRE(writer.is_plain());
      for (std::string_view text : {"plain", "quote \" and \\", "line\nbreak \x01", "\xC3\xA9\xF0\x9F\x98\x80"}) {
        std::string prepared, written;
        ChoicePart part;
        part.idx = 13;
        part.text = text;
        writer.append_text_chunk(prepared, 13, text);
        writer.append_chunk(written, part, nullptr);
        CHECK(prepared == written);
      }
    }
  }
}

TEST_CASE("when its time is over an answer is what there is, or an error where there is nothing") {
  Driven late(Endpoint::kCompletions, R"({"prompt":"x","n":2})");
  late.generation->expire("ttft_timeout_ms");
  REQUIRE(late.generation->error().has_value());
  CHECK(late.generation->error()->status == 504);
  CHECK(late.generation->error()->param == "ttft_timeout_ms");
  CHECK(late.cancelled.size() == 1);

  for (const char* more : {"", R"(,"stream":true)"}) {
    Driven driven(Endpoint::kCompletions, std::string(R"({"prompt":"x","n":2)") + more + "}");
    driven.step_us = 77;
    driven.text("some");
    driven.generation->expire("timeout_ms");
    CHECK(driven.generation->done());
    CHECK_FALSE(driven.generation->error().has_value());
    CHECK(driven.cancelled.size() == 1);
    const std::string answer = *more ? driven.generation->frames() : driven.generation->body();
    CHECK(count(answer, R"("finish_reason":"length","stop_reason":"timeout")") == 2);
    const std::size_t size = answer.size();
    driven.text("more");
    driven.finish(FinishReason::kCancelled);
    CHECK((*more ? driven.generation->frames().size() : size) == size);
  }
}

TEST_CASE("best_of returns those with the best mean logprob") {
  Driven driven(Endpoint::kCompletions, R"({"prompt":"x","n":2,"best_of":4})");
  const float logprobs[] = {-3, -1, -4, -2};
  for (std::int32_t choice = 0; choice < 4; ++choice) {
    driven.logprob = logprobs[choice];
    driven.text(std::string(1, static_cast<char>('a' + choice)), choice);
  }
  for (std::int32_t choice = 0; choice < 4; ++choice) driven.finish(FinishReason::kLength, choice);
  const std::string body = driven.generation->body();
  CHECK(count(body, "\"text\":") == 2);
  CHECK(body.find(R"({"index":0,"text":"b")") != std::string::npos);
  CHECK(body.find(R"({"index":1,"text":"d")") != std::string::npos);
  CHECK(body.find(R"("completion_tokens":4)") != std::string::npos);
}

}  // namespace fastgen::server
