#include "bench/load_plan.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <random>

#include <fmt/format.h>
#include <simdjson.h>

#include "base/json_writer.h"
#include "fastgen/error.h"

namespace fastgen::bench {

namespace {

using Random = std::mt19937_64;
using simdjson::dom::element;

// Words that nearly every tokenizer holds whole, so that text of n words has about n tokens.
constexpr const char* kWords[] = {"time", "people", "water", "light", "house", "small", "world", "where", "thing", "after", "never",
                                  "right", "place", "great", "point", "hand", "story", "night", "every", "found", "still", "between",
                                  "school", "father", "tree", "city", "earth", "eyes", "thought", "head", "under", "white"};
constexpr double kCharsPerToken = 4;  // of English, where no tokenizer says

std::int32_t draw(Random& random, std::int32_t low, std::int32_t high) {
  return std::uniform_int_distribution<std::int32_t>(low, high)(random);
}

std::string user_message(std::string_view text) {
  std::string out;
  JsonWriter json(out);
  json.begin_array().begin_object().field("role", "user").field("content", text).end_object().end_array();
  return out;
}

class PromptMaker {
 public:
  explicit PromptMaker(const DatasetOptions& options) : options_(options), random_(options.seed) {
    if (!options.tokenizer.empty()) tokenizer_ = Tokenizer::load(options.tokenizer);
    if (options.name == "jsonl") read_jsonl();
    if (options.name == "sonnet") read_sonnet();
    if (options.name == "chats" && !options.path.empty()) read_chats();
  }

  std::vector<LoadPrompt> make(std::int32_t count) {
    std::vector<LoadPrompt> prompts;
    while (std::int32_t(prompts.size()) < count) prompts.push_back(next());
    return prompts;
  }

 private:
  LoadPrompt next() {
    if (options_.name == "random") return random_prompt();
    if (options_.name == "sonnet") return sonnet_prompt();
    if (options_.name == "chats" && options_.path.empty()) return made_up_chat();
    if (options_.name != "jsonl" && options_.name != "chats")
      throw Error(fmt::format("--dataset {}: the choices are random, chats, jsonl, sonnet", options_.name));
    if (next_ % read_.size() == 0) std::shuffle(read_.begin(), read_.end(), random_);
    return read_[next_++ % read_.size()];
  }

  std::int32_t length_near(std::int32_t length) {
    const double r = options_.range_ratio;
    return std::max(1, draw(random_, std::int32_t(std::floor(length * (1 - r))), std::int32_t(std::ceil(length * (1 + r)))));
  }

  LoadPrompt random_prompt() {
    LoadPrompt prompt;
    prompt.input_tokens = length_near(options_.input_len);
    prompt.output_len = length_near(options_.output_len);
    const std::int32_t vocab = tokenizer_ ? tokenizer_->vocab_size() : options_.vocab;
    while (std::int32_t(prompt.ids.size()) < prompt.input_tokens) {
      const TokenId id = draw(random_, 0, vocab - 1);
      if (!tokenizer_ || !tokenizer_->is_special(id)) prompt.ids.push_back(id);
    }
    if (tokenizer_) prompt.text = tokenizer_->decode(prompt.ids);
    return prompt;
  }

  // ShareGPT's lengths, after vLLM's filter: prompts of about 220 tokens and answers of about 200, both long-tailed.
  LoadPrompt made_up_chat() {
    std::lognormal_distribution<double> input(4.6, 1.2), output(4.9, 1.0);
    LoadPrompt prompt;
    prompt.input_tokens = std::clamp(std::int32_t(input(random_)), 4, 1024);
    prompt.output_len = std::clamp(std::int32_t(output(random_)), 4, 1024);
    for (std::int32_t i = 0; i < prompt.input_tokens; ++i)
      prompt.text += std::string(i > 0 ? " " : "") + kWords[std::size_t(draw(random_, 0, std::int32_t(std::size(kWords)) - 1))];
    prompt.input_tokens = count(prompt.text);
    prompt.messages_json = user_message(prompt.text);
    return prompt;
  }

  // Lines of the poem in random order, as many as fit.
  LoadPrompt sonnet_prompt() {
    LoadPrompt prompt;
    prompt.output_len = options_.output_len;
    prompt.text = "Pick as many lines as you can from these poem lines:\n";
    while (true) {
      const std::string longer = prompt.text + lines_[std::size_t(draw(random_, 0, std::int32_t(lines_.size()) - 1))] + "\n";
      if (count_or_guess(longer) > options_.input_len) break;
      prompt.text = longer;
    }
    prompt.input_tokens = count(prompt.text);
    prompt.messages_json = user_message(prompt.text);
    return prompt;
  }

  std::int32_t count(const std::string& text) const { return tokenizer_ ? std::int32_t(tokenizer_->encode(text).size()) : 0; }
  std::int32_t count_or_guess(const std::string& text) const {
    return tokenizer_ ? count(text) : std::int32_t(std::ceil(double(text.size()) / kCharsPerToken));
  }

  std::ifstream open() const {
    if (options_.path.empty()) throw Error(fmt::format("--dataset {}: needs --dataset-path", options_.name));
    std::ifstream in(options_.path);
    if (!in) throw Error(fmt::format("--dataset-path {}: cannot be read", options_.path));
    return in;
  }
  [[noreturn]] void refuse(std::size_t number, const char* what) const {
    throw Error(fmt::format("--dataset-path {}: {} {}: {}", options_.path, options_.name == "jsonl" ? "line" : "entry", number, what));
  }

  void read_sonnet() {
    std::ifstream in = open();
    for (std::string line; std::getline(in, line);)
      if (!line.empty()) lines_.push_back(line);
    if (lines_.empty()) throw Error(fmt::format("--dataset-path {}: holds no lines", options_.path));
    const std::int32_t least = count_or_guess("Pick as many lines as you can from these poem lines:\n");
    if (options_.input_len <= least) throw Error(fmt::format("--input-len {}: the sonnet's first line alone has {}", options_.input_len, least));
  }

  // {"prompt": text} or {"messages": [...]}; "output_tokens" or "max_tokens" may say how long the answer is.
  void read_jsonl() {
    std::ifstream in = open();
    std::size_t number = 0;
    for (std::string line; std::getline(in, line);) {
      ++number;
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      element record;
      if (parser_.parse(line).get(record)) refuse(number, "is not JSON");
      LoadPrompt prompt;
      std::string_view text;
      element messages;
      if (!record["prompt"].get(text)) {
        prompt.text = text;
        prompt.messages_json = user_message(text);
        prompt.input_tokens = count(prompt.text);
      } else if (!record["messages"].get(messages) && messages.is_array()) {
        prompt.messages_json = simdjson::minify(messages);
      } else {
        refuse(number, "has neither \"prompt\" nor \"messages\"");
      }
      prompt.output_len = output_len_of(record, number);
      read_.push_back(std::move(prompt));
    }
    if (read_.empty()) throw Error(fmt::format("--dataset-path {}: holds no prompts", options_.path));
  }
  std::int32_t output_len_of(const element& record, std::size_t number) const {
    std::int64_t length = options_.output_len;
    element value;
    if (record["output_tokens"].get(value) && record["max_tokens"].get(value)) return options_.output_len;
    if (value.get(length) || length < 1 || length > std::numeric_limits<std::int32_t>::max()) refuse(number, "has no valid number of tokens");
    return std::int32_t(length);
  }

  // ShareGPT: the first message of a conversation is the prompt, the second says how long the answer is.
  void read_chats() {
    open();
    element all;
    if (parser_.load(options_.path).get(all) || !all.is_array())
      throw Error(fmt::format("--dataset-path {}: is not a JSON array of conversations", options_.path));
    for (element entry : all.get_array()) {
      std::string_view question, answer;
      if (entry["conversations"].at(0)["value"].get(question) || entry["conversations"].at(1)["value"].get(answer)) continue;
      LoadPrompt prompt;
      prompt.text = question;
      prompt.messages_json = user_message(question);
      prompt.input_tokens = count(prompt.text);
      prompt.output_len = count_or_guess(std::string(answer));
      if (count_or_guess(prompt.text) >= 4 && prompt.output_len >= 4) read_.push_back(std::move(prompt));
    }
    if (read_.empty()) throw Error(fmt::format("--dataset-path {}: no conversation has two messages of four tokens", options_.path));
  }

  const DatasetOptions& options_;
  Random random_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  simdjson::dom::parser parser_;
  std::vector<std::string> lines_;
  std::vector<LoadPrompt> read_;
  std::size_t next_ = 0;
};

// The Mersenne twister and, for Poisson arrivals, what NumPy's legacy generator makes of it: the same times as `vllm bench serve` has with
// this seed, so that two servers can be compared under one load.
class GapMaker {
 public:
  GapMaker(double burstiness, std::uint64_t seed) : burstiness_(burstiness), random_(static_cast<std::mt19937::result_type>(seed)), gamma_(burstiness) {}
  double next() { return burstiness_ == 1 ? -std::log(1 - uniform()) : gamma_(random_); }

 private:
  // In [0, 1), of 53 bits.
  double uniform() {
    const double high = random_() >> 5, low = random_() >> 6;
    return (high * 0x1p26 + low) * 0x1p-53;
  }

  const double burstiness_;
  std::mt19937 random_;
  std::gamma_distribution<double> gamma_;
};

}  // namespace

std::vector<LoadPrompt> load_prompts(const DatasetOptions& options, std::int32_t count) { return PromptMaker(options).make(count); }

std::vector<double> arrival_gaps(std::int32_t count, double rate, double burstiness, std::uint64_t seed) {
  std::vector<double> gaps(std::size_t(count), 0.0);
  if (!std::isfinite(rate)) return gaps;
  GapMaker gap_maker(burstiness, seed);
  for (double& gap : gaps) gap = gap_maker.next();
  const double sum = std::accumulate(gaps.begin(), gaps.end(), 0.0), wanted = double(count) / rate;
  for (double& gap : gaps) gap *= sum > 0 ? wanted / sum : 0;
  return gaps;
}

std::string body_of(const LoadPrompt& prompt, const BodyOptions& options) {
  std::string body;
  JsonWriter json(body);
  json.begin_object().field("model", options.model);
  if (options.chat) {
    if (prompt.messages_json.empty() && prompt.text.empty())
      throw Error("--endpoint chat: this dataset has token ids alone; --tokenizer makes text of them");
    json.key("messages").raw(prompt.messages_json.empty() ? user_message(prompt.text) : prompt.messages_json);
  } else if (!prompt.text.empty()) {
    json.field("prompt", prompt.text);
  } else if (!prompt.ids.empty()) {
    json.key("prompt").begin_array();
    for (TokenId id : prompt.ids) json.value(id);
    json.end_array();
  } else {
    throw Error("--endpoint completions: the dataset has messages; use --endpoint chat");
  }
  json.field("max_tokens", prompt.output_len).field("temperature", options.temperature).field("stream", true);
  json.key("stream_options").begin_object().field("include_usage", true).end_object();
  if (options.ignore_eos) json.field("ignore_eos", true);
  json.end_object();
  if (!options.extra_json.empty()) {
    body.back() = ',';
    body += options.extra_json + "}";
  }
  return body;
}

}  // namespace fastgen::bench
