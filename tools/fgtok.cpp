// fgtok: text to token ids, ids to text, and conversations to prompts, as JSON lines. Needs no weights.
#include <fmt/format.h>
#include <simdjson.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_writer.h"
#include "base/model_folder.h"
#include "base/read_file.h"
#include "command_line.h"
#include "fastgen/error.h"
#include "fastgen/text.h"

namespace fastgen {
namespace {

namespace fs = std::filesystem;
using simdjson::dom::element;

struct Options {
  std::string model;
  std::string revision = "main";
  std::string chat_template;
  bool add_special = false;
  bool skip_special = false;
  bool trust_content = false;
};

// ---- JSON ----

std::string json_string(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

std::string ids_json(const std::vector<TokenId>& ids) {
  std::string out = "[";
  for (TokenId id : ids) {
    if (out.size() > 1) out += ", ";
    out += std::to_string(id);
  }
  return out + "]";
}

std::string field_text(element line, std::string_view key) {
  std::string_view text;
  auto error = line[key].get(text);
  if (error == simdjson::NO_SUCH_FIELD || line[key].is_null()) return "";
  if (error) throw Error(fmt::format("{} must be a string", key));
  return std::string(text);
}

bool field_flag(element line, std::string_view key, bool otherwise) {
  bool flag = otherwise;
  auto error = line[key].get(flag);
  if (error && error != simdjson::NO_SUCH_FIELD) throw Error(fmt::format("{} must be true or false", key));
  return error ? otherwise : flag;
}

// The field as JSON text, empty where it is missing or null.
std::string field_json(element line, std::string_view key) {
  element value;
  if (line[key].get(value) || value.is_null()) return "";
  return simdjson::minify(value);
}

// ---- one line ----

std::string encode_line(const Tokenizer& tokenizer, const Options& options, element line) {
  std::string_view text;
  if (line["text"].get(text)) throw Error("text must be a string");
  return fmt::format("{{\"ids\": {}}}", ids_json(tokenizer.encode(text, options.add_special)));
}

std::string decode_line(const Tokenizer& tokenizer, const Options& options, element line) {
  simdjson::dom::array items;
  if (line["ids"].get(items)) throw Error("ids must be an array");
  std::vector<TokenId> ids;
  for (element item : items) {
    std::int64_t id = 0;
    if (item.get(id) || id < 0 || id >= tokenizer.vocab_size()) {
      throw Error(
          fmt::format("ids[{}] must be an integer from 0 to {}", ids.size(), tokenizer.vocab_size() - 1));
    }
    ids.push_back(static_cast<TokenId>(id));
  }
  return fmt::format("{{\"text\": {}}}", json_string(tokenizer.decode(ids, options.skip_special)));
}

// What is not one of render's own fields is a variable of the template.
std::string other_fields(element line) {
  static constexpr std::string_view kOwn[] = {"messages",  "tools",     "documents", "add_generation_prompt", "chat_template",
                                              "bos_token", "eos_token", "now",       "chat_template_kwargs"};
  std::string out;
  auto add = [&out](std::string_view key, element value) {
    out += fmt::format("{}{}: {}", out.empty() ? "" : ", ", json_string(key),
                       std::string(simdjson::minify(value)));
  };
  for (auto [key, value] : simdjson::dom::object(line)) {
    if (std::find(std::begin(kOwn), std::end(kOwn), key) == std::end(kOwn)) add(key, value);
  }
  simdjson::dom::object kwargs;
  if (!line["chat_template_kwargs"].get(kwargs)) {
    for (auto [key, value] : kwargs) add(key, value);
  }
  return out.empty() ? out : "{" + out + "}";
}

std::string render_line(const ChatTemplate& chat_template, const Tokenizer* tokenizer, const Options& options,
                        element line) {
  RenderInput input;
  input.messages_json = field_json(line, "messages");
  if (input.messages_json.empty()) throw Error("messages must be an array");
  input.tools_json = field_json(line, "tools");
  input.documents_json = field_json(line, "documents");
  input.kwargs_json = other_fields(line);
  input.add_generation_prompt = field_flag(line, "add_generation_prompt", true);
  input.now = field_text(line, "now");
  input.template_name = field_text(line, "chat_template");
  auto token = [&](std::string_view key, std::string from_model) {
    return line[key].error() ? from_model : field_text(line, key);
  };
  input.bos_token = token("bos_token", tokenizer ? tokenizer->bos_token() : "");
  input.eos_token = token("eos_token", tokenizer ? tokenizer->eos_token() : "");
  MarkedText prompt = chat_template.render(input);
  if (!tokenizer) return fmt::format("{{\"prompt\": {}}}", json_string(prompt.text));
  std::vector<TokenId> ids = tokenizer->encode(prompt, options.add_special, options.trust_content);
  return fmt::format("{{\"prompt\": {}, \"ids\": {}}}", json_string(prompt.text), ids_json(ids));
}

// ---- all lines ----

// Answers every line of standard input with one line; a line that fails is answered with {"error"}.
// Returns the exit status: 1 if any line failed.
int answer_lines(const std::function<std::string(element)>& answer) {
  std::ios::sync_with_stdio(false);
  simdjson::dom::parser parser;
  int status = 0;
  for (std::string line; std::getline(std::cin, line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      element parsed;
      if (auto error = parser.parse(line).get(parsed))
        throw Error(fmt::format("not JSON: {}", error_message(error)));
      if (!parsed.is_object()) throw Error("a line must be an object");
      std::cout << answer(parsed) << '\n';
    } catch (const Error& error) {
      std::cout << fmt::format("{{\"error\": {}}}\n", json_string(error.what()));
      status = 1;
    }
    if (std::cin.rdbuf()->in_avail() <= 0) std::cout << std::flush;
  }
  std::cout << std::flush;
  return status;
}

fs::path folder_of(const Options& options) {
  return options.model.empty() ? default_model_folder()
                               : resolve_model_folder(options.model, options.revision);
}

std::shared_ptr<const ChatTemplate> load_template(const Options& options) {
  if (options.chat_template.empty()) {
    auto chat_template = ChatTemplate::load(folder_of(options));
    if (!chat_template) chat_template = ChatTemplate::of_family(*Tokenizer::load(folder_of(options)));
    if (!chat_template)
      throw Error(fmt::format("{}: has no chat template; use --chat-template", folder_of(options).string()));
    return chat_template;
  }
  if (options.model.empty()) return ChatTemplate::parse(read_file(options.chat_template), options.chat_template);
  return ChatTemplate::choose(folder_of(options), options.chat_template);
}

int encode(const Options& options) {
  auto tokenizer = Tokenizer::load(folder_of(options));
  return answer_lines([&](element line) { return encode_line(*tokenizer, options, line); });
}

int decode(const Options& options) {
  auto tokenizer = Tokenizer::load(folder_of(options));
  return answer_lines([&](element line) { return decode_line(*tokenizer, options, line); });
}

int render(const Options& options) {
  auto chat_template = load_template(options);
  bool with_tokenizer = options.chat_template.empty() || !options.model.empty();
  auto tokenizer = with_tokenizer ? Tokenizer::load(folder_of(options)) : nullptr;
  return answer_lines(
      [&](element line) { return render_line(*chat_template, tokenizer.get(), options, line); });
}

// ---- the command line ----

CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& what, Options& options) {
  CLI::App* command = app.add_subcommand(name, what);
  command->add_option(
      "MODEL", options.model,
      "A folder with tokenizer.json, or org/name in the Hugging Face cache. Without it the default model");
  command->add_option("--revision", options.revision, "Branch, tag or commit of a model from the cache")
      ->capture_default_str();
  return command;
}

int run(int argc, char** argv) {
  CLI::App app{
      "Tokens and prompts as JSON lines, from standard input to standard output.\n"
      "Every line in gives one line out, {\"error\": ...} where it fails (then the exit status is 1)."};
  set_up_command_line(app, "fgtok");
  app.footer(
      "Examples:\n"
      "  echo '{\"text\": \"Hello\"}' | fgtok encode\n"
      "  echo '{\"ids\": [19556]}' | fgtok decode ./Llama-3.1-8B-Instruct\n"
      "  echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}' "
      "| fgtok render\n"
      "  fgtok render --chat-template chat_template.jinja < conversations.jsonl");
  app.require_subcommand(1);
  Options options;
  CLI::App* encode_command = add_command(app, "encode", "{\"text\"} to {\"ids\"}", options);
  encode_command->add_flag("--add-special", options.add_special,
                           "With the tokenizer's own tokens around the text (BOS, EOS)");
  CLI::App* decode_command = add_command(app, "decode", "{\"ids\"} to {\"text\"}", options);
  decode_command->add_flag("--skip-special", options.skip_special, "Leave special tokens out");
  CLI::App* render_command =
      add_command(app, "render",
                  "{\"messages\", \"tools\"?, \"documents\"?, \"add_generation_prompt\"?, \"bos_token\"?, "
                  "\"eos_token\"?, \"now\"?, \"chat_template\"?, ...} "
                  "to {\"prompt\"} and, with a tokenizer, {\"ids\"}. Other fields are variables of the "
                  "template; \"now\" (\"2024-07-26 12:00:00\") is the time that strftime_now tells; add_generation_prompt is true unless given; \"chat_template\" names one of the model's.",
                  options);
  render_command->add_option("--chat-template", options.chat_template,
                             "One of MODEL's templates by its name, or a Jinja file instead, which needs no MODEL");
  render_command->add_flag("--add-special", options.add_special,
                           "Add BOS and EOS to the ids, as encode does");
  render_command->add_flag(
      "--trust-content", options.trust_content,
      "Let control tokens written in messages be control tokens (unsafe with text from others)");
  if (const auto status = parse_command_line(app, argc, argv)) return *status;
  if (encode_command->parsed()) return encode(options);
  return decode_command->parsed() ? decode(options) : render(options);
}

}  // namespace
}  // namespace fastgen

int main(int argc, char** argv) {
  try {
    return fastgen::run(argc, argv);
  } catch (const fastgen::Error& error) {
    std::fprintf(stderr, "fgtok: %s\n", error.what());
    return 1;
  }
}
