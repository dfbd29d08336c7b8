#include "server/api_request.h"

#include "support/support.h"

namespace fastgen::server {

namespace {

constexpr const char* kMessages = R"("messages":[{"role":"user","content":"hi"}])";

ApiRequest chat(const std::string& fields) {
  return parse_api_request(Endpoint::kChat, std::string("{") + kMessages + (fields.empty() ? "" : ",") + fields + "}");
}

ApiRequest completion(const std::string& fields) {
  return parse_api_request(Endpoint::kCompletions, "{" + fields + "}");
}

TEST_CASE("what a request does not say is drawn as the model wants") {
  const SamplingParams wanted{.temperature = 0.6f, .top_p = 0.9f, .top_k = 20};
  const auto parse = [&](const std::string& fields) {
    return parse_api_request(Endpoint::kCompletions, R"({"prompt": "x")" + fields + "}", wanted).sampling;
  };
  CHECK(parse("").temperature == 0.6f);
  CHECK(parse("").top_k == 20);
  CHECK(parse(R"(, "temperature": 0)").temperature == 0);
  CHECK(parse(R"(, "temperature": null)").temperature == 0.6f);
  CHECK(parse(R"(, "top_p": 1)").top_p == 1);
  CHECK(completion(R"("prompt": "x")").sampling.temperature == 1);
}

struct Refusal {
  Endpoint endpoint;
  const char* body;
  const char* param;
  const char* message_part;
};

constexpr Endpoint C = Endpoint::kChat, T = Endpoint::kCompletions;

const Refusal kRefusals[] = {
    {C, "", "", "not valid JSON"},
    {C, "{", "", "not valid JSON"},
    {C, "[]", "", "must be a JSON object"},
    {C, "{}", "messages", "is required"},
    {C, R"({"messages":"hi"})", "messages", "an array of messages, got a string"},
    {C, R"({"messages":[]})", "messages", "at least one"},
    {C, R"({"messages":["hi"]})", "messages[0]", "expected an object, got a string"},
    {C, R"({"messages":[{"content":"x"}]})", "messages[0].role", "is required"},
    {C, R"({"messages":[{"role":"wizard","content":"x"}]})", "messages[0].role", "must be"},
    {C, R"({"messages":[{"role":"user"}]})", "messages[0].content", "is required"},
    {C, R"({"messages":[{"role":"user","content":5}]})", "messages[0].content", "got 5"},
    {C, R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]})",
     "messages[0].content[0].type", "image_url"},
    {C, R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})", "messages[0].content[0].text", "is required"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"temperature":"hot"})", "temperature", "between 0 and 2, got a string"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"temperature":-0.1})", "temperature", "got -0.1"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"top_p":0})", "top_p", "greater than 0"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"n":0})", "n", "between 1 and 128, got 0"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"n":1.5})", "n", "got 1.5"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"max_tokens":0})", "max_tokens", "at least 1"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"max_tokens":5,"min_tokens":6})", "min_tokens", "more than max_tokens"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"top_logprobs":3})", "top_logprobs", "logprobs"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"logprobs":3})", "logprobs", "a boolean"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"logit_bias":{"x":1}})", "logit_bias", "not a token id"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"logit_bias":{"5":101}})", "logit_bias.5", "between -100 and 100"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"stop":[""]})", "stop[0]", "not be empty"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"stream_options":{}})", "stream_options", "stream"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function"}]})", "tools", "not supported"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"tool_choice":"auto"})", "tool_choice", "none"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_object"}})", "response_format", "json_object"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"stream":true,"prompt_logprobs":1})", "prompt_logprobs", "stream"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"modalities":["audio"]})", "modalities[0]", "text"},
    {T, "{}", "prompt", "is required"},
    {T, R"({"prompt":[]})", "prompt", "not be empty"},
    {T, R"({"prompt":[[]]})", "prompt[0]", "at least one"},
    {T, R"({"prompt":[1,"x"]})", "prompt[1]", "a token id"},
    {T, R"({"prompt":["x",1]})", "prompt[1]", "a string"},
    {T, R"({"prompt":[-1]})", "prompt[0]", "a token id"},
    {T, R"({"prompt":{"a":1}})", "prompt", "got an object"},
    {T, R"({"prompt":"x","suffix":"y"})", "suffix", "not supported"},
    {T, R"({"prompt":"x","best_of":2,"stream":true})", "best_of", "stream"},
    {T, R"({"prompt":"x","n":3,"best_of":2})", "best_of", "less than n"},
    {T, R"({"prompt":"x","timeout_ms":0})", "timeout_ms", "between 1"},
    {T, R"({"prompt":"x","priority":1001})", "priority", "between -1000 and 1000"},
    {T, R"({"prompt":"x","moderation":{"model":"m"}})", "moderation", "not supported"},
    {C, R"({"messages":[{"role":"user","content":"x"}],"service_tier":"flex"})", "service_tier", "flex"},
    {T, R"({"prompt":"x","logprobs":true})", "logprobs", "an integer"},
    {T, R"({"prompt":"x","logprobs":21})", "logprobs", "got 21"},
};

}  // namespace

TEST_CASE("what is wrong is refused by name") {
  for (const Refusal& refusal : kRefusals) {
    CAPTURE(refusal.body);
    bool refused = false;
    try {
      parse_api_request(refusal.endpoint, refusal.body);
    } catch (const ApiError& error) {
      refused = true;
      CHECK(error.status == 400);
      CHECK(error.param == refusal.param);
      CHECK(std::string(error.what()).find(refusal.message_part) != std::string::npos);
      CHECK(std::string(error.what()).starts_with(refusal.param));
    }
    CHECK(refused);
  }
}

TEST_CASE("defaults are OpenAI's") {
  const ApiRequest request = chat("");
  CHECK(request.sampling.temperature == 1);
  CHECK(request.sampling.top_p == 1);
  CHECK(request.n == 1);
  CHECK_FALSE(request.max_tokens.has_value());
  CHECK_FALSE(request.seed.has_value());
  CHECK_FALSE(request.stream);
  CHECK_FALSE(request.wants_logprobs);
  CHECK(request.skip_special_tokens);
  CHECK(request.messages_json == R"([{"role":"user","content":"hi"}])");
}

TEST_CASE("every field arrives") {
  const ApiRequest request = chat(
      R"("model":"m","temperature":0.5,"top_p":0.25,"min_p":0.125,"top_k":7,"repetition_penalty":1.5,
         "frequency_penalty":-1,"presence_penalty":2,"seed":-1,"max_tokens":9,"max_completion_tokens":8,"min_tokens":3,
         "ignore_eos":true,"stop_token_ids":[4,5],"logit_bias":{"6":-100,"7":1.5},"logprobs":true,"top_logprobs":4,
         "prompt_logprobs":2,"n":3,"stop":["a","b"],"include_stop_str_in_output":true,"skip_special_tokens":false,
         "add_generation_prompt":false,"chat_template_kwargs":{"k":1},"documents":[{"t":"d"}],"return_token_ids":true,
         "add_special_tokens":true,"user":"u","tool_choice":"none","tools":[],"response_format":{"type":"text"},"unknown":1)");
  CHECK(request.model == "m");
  CHECK(request.sampling.temperature == 0.5f);
  CHECK(request.sampling.top_p == 0.25f);
  CHECK(request.sampling.min_p == 0.125f);
  CHECK(request.sampling.top_k == 7);
  CHECK(request.sampling.repetition_penalty == 1.5f);
  CHECK(request.sampling.frequency_penalty == -1);
  CHECK(request.sampling.presence_penalty == 2);
  CHECK(request.seed == ~std::uint64_t{0});
  CHECK(request.max_tokens == 8);
  CHECK(request.sampling.min_tokens == 3);
  CHECK(request.sampling.ignore_eos);
  CHECK(request.sampling.stop_token_ids == std::vector<TokenId>{4, 5});
  REQUIRE(request.sampling.logit_bias.size() == 2);
  CHECK(request.sampling.logit_bias[0].bias == -100);
  CHECK(request.sampling.num_logprobs == 4);
  CHECK(request.sampling.num_prompt_logprobs == 2);
  CHECK(request.n == 3);
  CHECK(request.stop == std::vector<std::string>{"a", "b"});
  CHECK(request.include_stop);
  CHECK_FALSE(request.skip_special_tokens);
  CHECK_FALSE(request.add_generation_prompt);
  CHECK(request.kwargs_json == R"({"k":1})");
  CHECK(request.documents_json == R"([{"t":"d"}])");
  CHECK(request.return_token_ids);
  CHECK(request.add_special_tokens == true);
}

TEST_CASE("null counts as not given") {
  const ApiRequest request = chat(R"("temperature":null,"stop":null,"tools":null,"response_format":null,"n":null,"seed":null)");
  CHECK(request.sampling.temperature == 1);
  CHECK(request.n == 1);
}

TEST_CASE("prompts come in four forms") {
  CHECK(completion(R"("prompt":"a")").prompts[0].text == "a");
  CHECK(completion(R"("prompt":["a","b"])").prompts[1].text == "b");
  CHECK(completion(R"("prompt":[1,2])").prompts[0].ids == std::vector<TokenId>{1, 2});
  const ApiRequest lists = completion(R"("prompt":[[1],[2,3]])");
  REQUIRE(lists.prompts.size() == 2);
  CHECK(lists.prompts[1].ids == std::vector<TokenId>{2, 3});
  CHECK_FALSE(lists.prompts[1].is_text);
}

TEST_CASE("echo with logprobs asks for the prompt's logprobs, and allows no answer at all") {
  const ApiRequest request = completion(R"("prompt":"a","echo":true,"logprobs":2,"max_tokens":0)");
  CHECK(request.sampling.num_prompt_logprobs == 2);
  CHECK(request.max_tokens == 0);
}

TEST_CASE("content parts are joined, developer is system, other fields stay") {
  const std::string body =
      R"({"messages":[{"role":"developer","content":"s"},{"role":"user","name":"n","content":[{"type":"text","text":"a\n"},
          {"type":"text","text":"\u00e9"}]},{"role":"assistant","content":null,"tool_calls":[{"id":"x"}]}]})";
  CHECK(parse_api_request(Endpoint::kChat, body).messages_json ==
        "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"name\":\"n\",\"content\":\"a\\n\\n\xC3\xA9\"},"
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"x\"}]}]");
}

TEST_CASE("deep JSON is refused") {
  std::string deep = R"({"messages":)" + std::string(200, '[') + std::string(200, ']') + "}";
  CHECK_THROWS_AS(parse_api_request(Endpoint::kChat, deep), ApiError);
}

TEST_CASE("fields without effect are listed, only plain names, and refused when strict") {
  const auto text = [](const std::string& fields) { return R"({"prompt":"x")" + fields + "}"; };
  const auto names = [&](const std::string& fields) { return ignored_params(parse_api_request(Endpoint::kCompletions, text(fields))); };
  CHECK(names("") == "");
  CHECK(names(R"(,"user":"u","temperature":null)") == "");
  CHECK(names(R"(,"foo":1,"bar.b-z_9":null,"foo":2)") == "foo, bar.b-z_9");
  CHECK(names(R"(,"with space":1,"a\r\nSet-Cookie: x":1,"":1,"\u00e9":1)") == "+4");
  CHECK(names(",\"" + std::string(64, 'n') + "\":1,\"" + std::string(65, 'n') + "\":1") == std::string(64, 'n') + ", +1");
  std::string many;
  for (int i = 0; i < 20; ++i) many += ",\"f" + std::to_string(i) + "\":1";
  CHECK(names(many).ends_with("f15, +4"));
  CHECK_THROWS_AS(parse_api_request(Endpoint::kCompletions, text(R"(,"foo":1)"), {}, true), ApiError);
  CHECK_NOTHROW(parse_api_request(Endpoint::kCompletions, text(R"(,"user":"u","seed":null)"), {}, true));
}

TEST_CASE("known fields that have no effect are listed too; what asks for nothing is not") {
  const auto names = [](const std::string& fields) {
    return ignored_params(parse_api_request(Endpoint::kChat, R"({"messages":[{"role":"user","content":"x"}])" + fields + "}"));
  };
  CHECK(names(R"(,"reasoning_effort":"low","verbosity":"low","store":true)") == "reasoning_effort, verbosity, store");
  CHECK(names(R"(,"store":false,"metadata":{"a":"b"},"service_tier":"auto","parallel_tool_calls":true,"safety_identifier":"s")") == "");
  CHECK(names(R"(,"stream":true,"stream_options":{"include_obfuscation":true,"x":1})") == "stream_options.include_obfuscation, stream_options.x");
  CHECK(names(R"(,"stream":true,"stream_options":{"include_obfuscation":false})") == "");
}

TEST_CASE("best_of draws more than it returns, and needs logprobs that nobody asked to see") {
  const ApiRequest request = parse_api_request(Endpoint::kCompletions, R"({"prompt":"x","n":2,"best_of":5})");
  CHECK(request.num_drawn() == 5);
  CHECK(request.sampling.num_logprobs == 0);
  CHECK_FALSE(request.wants_logprobs);
}

}  // namespace fastgen::server
