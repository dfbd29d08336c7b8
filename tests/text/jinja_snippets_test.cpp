// Small pieces of the language against what the real Jinja2 made of them (scripts/make-goldens templates).
#include <simdjson.h>

#include <string>

#include "fastgen/error.h"
#include "fastgen/text.h"
#include "support/support.h"

using namespace fastgen;

namespace {

namespace dom = simdjson::dom;

constexpr const char* kBadSource = "ERROR in the source";

// The text, or "ERROR " and the message without the place.
std::string outcome(std::string_view source, const RenderInput& input) {
  try {
    return ChatTemplate::parse(source, "t")->render(input).text;
  } catch (const Error& error) {
    std::string what = error.what();
    if (what.starts_with("t:")) return kBadSource;
    return "ERROR " + what.substr(0, what.rfind(" (t:"));
  }
}

std::string golden_outcome(const dom::element& row) {
  std::string_view text;
  if (!row["expected"].get(text)) return std::string(text);
  std::string error{std::string_view(row["error"])};
  // Mistakes in the source must be found when it is parsed; how that is said is our own.
  for (const char* kind : {"TemplateSyntaxError", "TemplateAssertionError", "SyntaxError"})
    if (error.starts_with(kind)) return kBadSource;
  return "ERROR " + error;
}

}  // namespace

TEST_CASE("jinja snippets: identical to Jinja2") {
  dom::parser parser;
  dom::element golden = parser.load((test::golden() / "templates" / "snippets" / "snippets.json").string());
  RenderInput input;
  input.messages_json = "[]";
  input.kwargs_json = simdjson::to_string(golden["variables"]);
  input.now = std::string_view(golden["now"]);
  for (dom::element row : dom::array(golden["results"])) {
    std::string_view source = row["source"];
    INFO(source);
    CHECK(outcome(source, input) == golden_outcome(row));
  }
}
