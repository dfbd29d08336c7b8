#include "bench/load_plan.h"

#include <cmath>
#include <fstream>
#include <numeric>

#include "fastgen/error.h"
#include "support/support.h"

namespace fastgen::bench {
namespace {

double variation(const std::vector<double>& gaps) {
  const double mean = std::accumulate(gaps.begin(), gaps.end(), 0.0) / double(gaps.size());
  double squares = 0;
  for (double gap : gaps) squares += (gap - mean) * (gap - mean);
  return std::sqrt(squares / double(gaps.size())) / mean;
}

TEST_CASE("gaps take as long as the rate says, and vary as the burstiness says") {
  for (double burstiness : {0.25, 1.0, 4.0}) {
    const std::vector<double> gaps = arrival_gaps(20'000, 50, burstiness, 9);
    CHECK(std::accumulate(gaps.begin(), gaps.end(), 0.0) == doctest::Approx(400));
    CHECK(variation(gaps) == doctest::Approx(1 / std::sqrt(burstiness)).epsilon(0.05));  // of a gamma distribution
    CHECK(gaps == arrival_gaps(20'000, 50, burstiness, 9));
    CHECK(gaps != arrival_gaps(20'000, 50, burstiness, 10));
  }
  CHECK(arrival_gaps(3, INFINITY, 1, 0) == std::vector<double>{0, 0, 0});
}

// numpy.random.seed(7); numpy.random.gamma(1, 1, 4), scaled so that they sum to 4 / 2.
TEST_CASE("Poisson arrivals are those of NumPy's legacy generator") {
  const std::vector<double> gaps = arrival_gaps(4, 2, 1, 7), numpy{0.045941879982958275, 0.8761353870920546, 0.3339463795609335, 0.7439763533640538};
  for (std::size_t i = 0; i < 4; ++i) CHECK(gaps[i] == doctest::Approx(numpy[i]).epsilon(1e-12));
}

TEST_CASE("random prompts have the asked lengths") {
  DatasetOptions options{.input_len = 40, .output_len = 8, .range_ratio = 0.5, .vocab = 100, .seed = 3};
  bool differs = false;
  for (const LoadPrompt& prompt : load_prompts(options, 200)) {
    CHECK(prompt.ids.size() == std::size_t(prompt.input_tokens));
    CHECK(prompt.input_tokens >= 20);
    CHECK(prompt.input_tokens <= 60);
    CHECK(prompt.output_len >= 4);
    CHECK(prompt.output_len <= 12);
    for (TokenId id : prompt.ids) CHECK((id >= 0 && id < 100));
    differs = differs || prompt.input_tokens != 40;
  }
  CHECK(differs);
  options.range_ratio = 0;
  CHECK(load_prompts(options, 1)[0].input_tokens == 40);
}

TEST_CASE("bodies") {
  LoadPrompt prompt{.ids = {1, 2}, .text = "", .messages_json = "", .input_tokens = 2, .output_len = 7};
  CHECK(body_of(prompt, {.chat = false, .model = "m", .extra_json = ""}) ==
        R"({"model":"m","prompt":[1,2],"max_tokens":7,"temperature":0,"stream":true,"stream_options":{"include_usage":true},"ignore_eos":true})");
  CHECK_THROWS_AS(body_of(prompt, {.chat = true}), Error);
  prompt.text = "a \"b\"";
  CHECK(body_of(prompt, {.chat = true, .model = "m", .ignore_eos = false, .extra_json = R"("top_p":0.5)"}) ==
        R"({"model":"m","messages":[{"role":"user","content":"a \"b\""}],"max_tokens":7,"temperature":0,"stream":true,)"
        R"("stream_options":{"include_usage":true},"top_p":0.5})");
}

TEST_CASE("datasets of files") {
  const test::TempDir folder;
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(folder.path() / name) << text;
    return (folder.path() / name).string();
  };
  DatasetOptions options{.name = "jsonl", .output_len = 9};
  options.path = write("p.jsonl", "{\"prompt\":\"one\"}\n\n{\"messages\":[{\"role\":\"user\",\"content\":\"two\"}],\"max_tokens\":5}\n");
  const std::vector<LoadPrompt> prompts = load_prompts(options, 6);
  CHECK(prompts.size() == 6);
  for (const LoadPrompt& prompt : prompts) {
    const bool is_one = prompt.text == "one";
    CHECK(prompt.output_len == (is_one ? 9 : 5));
    CHECK(prompt.messages_json == (is_one ? R"([{"role":"user","content":"one"}])" : R"([{"role":"user","content":"two"}])"));
  }
  for (const char* bad : {"{\"prompt\":5}\n", "nonsense\n", "\n", "{\"prompt\":\"x\",\"max_tokens\":0}\n", "{\"prompt\":\"x\",\"max_tokens\":\"y\"}\n"}) {
    options.path = write("bad.jsonl", bad);
    CHECK_THROWS_AS(load_prompts(options, 1), Error);
  }
  options.name = "chats";
  options.path = write("chats.json", R"([{"conversations":[{"from":"human","value":"a question of some length"},{"from":"gpt","value":"an answer of sixteen"}]},
                                         {"conversations":[{"from":"human","value":"alone here"}]}])");
  const LoadPrompt chat = load_prompts(options, 3)[2];
  CHECK(chat.text == "a question of some length");
  CHECK(chat.output_len == 5);  // of twenty characters
  options.name = "sonnet";
  options.input_len = 60;
  options.path = write("sonnet.txt", "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n");
  const LoadPrompt sonnet = load_prompts(options, 1)[0];
  CHECK(sonnet.text.size() > 100);
  CHECK(sonnet.text.size() <= 240);
  options.path = "";
  CHECK_THROWS_AS(load_prompts(options, 1), Error);
}

TEST_CASE("made-up chats have ShareGPT's long tail") {
  const std::vector<LoadPrompt> chats = load_prompts({.name = "chats"}, 2000);
  double sum = 0, most = 0;
  for (const LoadPrompt& chat : chats) {
    CHECK(chat.messages_json.starts_with(R"([{"role":"user","content":")"));
    sum += chat.output_len;
    most = std::max(most, double(chat.output_len));
  }
  CHECK(sum / 2000 > 120);
  CHECK(sum / 2000 < 280);
  CHECK(most > 800);
}

}  // namespace
}  // namespace fastgen::bench
