// Text of messages never becomes a control token: every template at hand, its model's control tokens inside every field.
#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <simdjson.h>

#include "base/json_writer.h"
#include "fastgen/error.h"
#include "fastgen/text.h"
#include "support/support.h"
#include "text/golden_tokens.h"

namespace fastgen {
namespace {

namespace fs = std::filesystem;
namespace dom = simdjson::dom;

constexpr const char* kMark = "QZQ";  // stands behind every control token that a field holds; no template writes it

struct Named {
  std::string name;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<std::string> control;  // texts of its control tokens, the first few and all that are no fillers
};

Named with_control_tokens(const test::GoldenTokenizer& golden) {
  Named out{golden.name, Tokenizer::load(golden.folder), {}};
  for (TokenId id = 0; id < out.tokenizer->vocab_size() && out.control.size() < 40; ++id) {
    if (!out.tokenizer->is_special(id)) continue;
    const std::string text = out.tokenizer->token_bytes(id);
    const bool filler = text.find("reserved") != std::string::npos || text.find("SPECIAL_") != std::string::npos;
    if (!filler && !text.empty()) out.control.push_back(text);
  }
  return out;
}

// Writes `value` with control tokens behind every string but those that steer the template (roles and types).
class Poisoner {
 public:
  explicit Poisoner(const std::vector<std::string>& control) : control_(control) {}

  std::string poisoned(dom::element value) {
    std::string out;
    JsonWriter json(out);
    write(json, value, "");
    return out;
  }

 private:
  void write(JsonWriter& json, dom::element value, std::string_view key) {
    dom::object object;
    dom::array array;
    std::string_view text;
    if (!value.get(object)) {
      json.begin_object();
      for (const dom::key_value_pair field : object) {
        json.key(field.key);
        write(json, field.value, field.key);
      }
      json.end_object();
    } else if (!value.get(array)) {
      json.begin_array();
      for (dom::element item : array) write(json, item, key);
      json.end_array();
    } else if (!value.get(text) && key != "role" && key != "type") {
      json.value(std::string(text) + next() + " " + next());
    } else {
      json.raw(simdjson::minify(value));
    }
  }
  std::string next() { return control_[next_++ % control_.size()] + kMark; }

  const std::vector<std::string>& control_;
  std::size_t next_ = 0;
};

std::vector<TokenId> control_ids(const Tokenizer& tokenizer, const MarkedText& text) {
  std::vector<TokenId> out;
  for (TokenId id : tokenizer.encode(text))
    if (tokenizer.is_special(id)) out.push_back(id);
  return out;
}

// The same prompt with a letter in the place of every byte that the template did not write.
MarkedText blanked(MarkedText text) {
  std::size_t at = 0;
  for (const ByteRange& range : text.trusted) {
    std::fill(text.text.begin() + static_cast<std::ptrdiff_t>(at), text.text.begin() + static_cast<std::ptrdiff_t>(range.begin), 'z');
    at = range.end;
  }
  std::fill(text.text.begin() + static_cast<std::ptrdiff_t>(at), text.text.end(), 'z');
  return text;
}

bool overlaps_trusted(const MarkedText& text, std::size_t begin, std::size_t end) {
  return std::any_of(text.trusted.begin(), text.trusted.end(), [&](const ByteRange& range) { return range.begin < end && begin < range.end; });
}

struct Count {
  int rendered = 0;
  int marks = 0;      // fields' control tokens that came out in a prompt
  int as_tokens = 0;  // prompts in which they would be control tokens if the marks were not heeded
};

void check_prompt(const Named& named, const MarkedText& prompt, Count& count) {
  ++count.rendered;
  for (std::size_t at = prompt.text.find(kMark); at != std::string::npos; at = prompt.text.find(kMark, at + 1)) {
    ++count.marks;
    CHECK_FALSE(overlaps_trusted(prompt, at, at + 3));
  }
  const std::vector<TokenId> ids = control_ids(*named.tokenizer, prompt);
  CHECK(ids == control_ids(*named.tokenizer, blanked(prompt)));
  std::vector<TokenId> unmarked;
  for (TokenId id : named.tokenizer->encode(prompt.text))
    if (named.tokenizer->is_special(id)) unmarked.push_back(id);
  count.as_tokens += unmarked != ids;
}

// The tokenizer whose control tokens the template writes most of.
const Named& tokenizer_of(const std::vector<Named>& all, const std::string& source) {
  const auto score = [&](const Named& named) {
    return std::count_if(named.control.begin(), named.control.end(), [&](const std::string& token) { return source.find(token) != std::string::npos; });
  };
  return *std::max_element(all.begin(), all.end(), [&](const Named& a, const Named& b) { return score(a) < score(b); });
}

std::string json_field(dom::element from, const char* key) {
  dom::element value;
  return from[key].get(value) || value.is_null() ? "" : simdjson::minify(value);
}

void check_cases(const std::string& name, const ChatTemplate& chat_template, const Named& named, dom::element contexts, Count& count) {
  dom::parser parser;
  for (const dom::key_value_pair context : dom::object(contexts)) {
    Poisoner poisoner(named.control);
    const std::string json = poisoner.poisoned(context.value);
    const dom::element fields = parser.parse(json);
    RenderInput input;
    input.messages_json = json_field(fields, "messages");
    input.tools_json = json_field(fields, "tools");
    input.documents_json = json_field(fields, "documents");
    input.bos_token = named.tokenizer->bos_token();
    input.eos_token = named.tokenizer->eos_token();
    input.now = "2024-07-26 12:00:00";
    INFO(name, ", case ", std::string(context.key), ", tokenizer ", named.name);
    try {
      check_prompt(named, chat_template.render(input), count);
    } catch (const Error&) {
      continue;  // the template refuses the case, or what became of it
    }
  }
}

void check_template(const fs::path& file, const std::vector<Named>& tokenizers, dom::element contexts, Count& count) {
  const std::string source = test::read_file(file);
  try {
    const auto chat_template = ChatTemplate::parse(source, file.filename().string());
    check_cases(file.string(), *chat_template, tokenizer_of(tokenizers, source), contexts, count);
  } catch (const Error&) {
    return;  // of a dialect that is not ours; the goldens say which must parse
  }
}

Count check_folder(const fs::path& folder, const std::vector<Named>& tokenizers, const fs::path& contexts) {
  Count count;
  dom::parser parser;
  const dom::element cases = parser.load(contexts.string());
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.path().extension() == ".jinja") check_template(entry.path(), tokenizers, cases, count);
  std::printf("  %s: %d prompts, %d control tokens in them that messages wrote, %d prompts where they would count\n", folder.filename().c_str(),
              count.rendered, count.marks, count.as_tokens);
  return count;
}

TEST_CASE("no field of a request can write a control token, whatever the template does with it: our own templates") {
  std::vector<Named> tokenizers;
  for (const auto& golden : test::find_golden_tokenizers())
    if (golden.name == "byte_level") tokenizers.push_back(with_control_tokens(golden));
  REQUIRE(tokenizers.size() == 1);
  REQUIRE(tokenizers[0].control.size() >= 3);
  const fs::path folder = test::golden() / "templates";
  const Count count = check_folder(folder / "sources", tokenizers, folder / "_contexts.json");
  CHECK(count.rendered > 5);
  CHECK(count.marks > count.rendered);
  CHECK(count.as_tokens > 5);
}

TEST_CASE("no field of a request can write a control token: the built-in format of a family") {
  Count count;
  dom::parser parser;
  const dom::element cases = parser.load((test::golden() / "templates" / "_contexts.json").string());
  for (const auto& golden : test::find_golden_tokenizers()) {
    const Named named = with_control_tokens(golden);
    if (const auto chat_template = ChatTemplate::of_family(*named.tokenizer)) check_cases(golden.name, *chat_template, named, cases, count);
  }
  CHECK(count.rendered > 3);
  CHECK(count.as_tokens > 3);
}

TEST_CASE("no field of a request can write a control token: published templates and tokenizers") {
  const auto folder = test::find_asset("templates"), contexts = test::find_asset("goldens/templates/_contexts.json");
  if (!folder || !contexts) FG_SKIP("assets/templates");
  std::vector<Named> tokenizers;
  for (const auto& golden : test::find_golden_tokenizers())
    if (golden.folder.string().find("models/") != std::string::npos) tokenizers.push_back(with_control_tokens(golden));
  if (tokenizers.empty()) FG_SKIP("assets/models");
  const Count count = check_folder(*folder, tokenizers, *contexts);
  CHECK(count.rendered > 500);
  CHECK(count.as_tokens > 400);
}

}  // namespace
}  // namespace fastgen
