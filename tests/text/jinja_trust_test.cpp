// Which bytes of a rendered prompt are the template's own.
#include <random>
#include <string>
#include <vector>

#include "fastgen/error.h"
#include "fastgen/text.h"
#include "support/support.h"

using namespace fastgen;

namespace {

MarkedText render(const std::string& source, const std::string& messages, const std::string& tools = "") {
  RenderInput input;
  input.messages_json = messages;
  input.tools_json = tools;
  input.bos_token = "<Q>";
  input.now = "2024-07-26 12:00:00";
  return ChatTemplate::parse(source, "t")->render(input);
}

// The trusted bytes as they are, all others as '.'.
std::string trusted_view(const MarkedText& text) {
  std::string view(text.text.size(), '.');
  std::size_t last = 0;
  for (const ByteRange& range : text.trusted) {
    REQUIRE(range.begin < range.end);
    REQUIRE(range.end <= text.text.size());
    REQUIRE((range.begin > last || last == 0));
    last = range.end;
    for (std::size_t i = range.begin; i < range.end; ++i) view[i] = text.text[i];
  }
  return view;
}

std::string view_of(const std::string& expression) {
  return trusted_view(render("{% set v = messages[0].content %}" + expression, R"([{"content":"ab,c"}])"));
}

// Pieces of templates that do something to a value `v` and to template text, which holds only Q, < and >.
const std::vector<std::string> kExpressions = {"v",
                                               "'<Q>' ~ v ~ '<Q>'",
                                               "'<Q>' + v",
                                               "v | upper",
                                               "v | trim",
                                               "v | indent(2, true)",
                                               "v | replace('u', '<Q>')",
                                               "'<Q>' | replace('Q', v)",
                                               "v[1:]",
                                               "v[::-1]",
                                               "v[:3] ~ '<Q>'",
                                               "v.split('u') | join('<Q>')",
                                               "'<Q>%s<Q>' % v",
                                               "'<Q>{}<Q>{x}'.format(v, x=v)",
                                               "[v, '<Q>'] | join(v)",
                                               "[v, '<Q>'] | tojson",
                                               "{'<Q>': v, v: '<Q>'}",
                                               "(v, '<Q>')",
                                               "v.strip('<')",
                                               "v.title()",
                                               "v | e",
                                               "v | urlencode",
                                               "v.partition('u') | list",
                                               "v.ljust(30, '<')",
                                               "v | center(40)",
                                               "v * 2 ~ '<Q>' * 2",
                                               "v | list | join",
                                               "(v ~ '<Q>').split('u')[-1]",
                                               "(v ~ '<Q>') | reverse",
                                               "(v ~ '<Q>')[2:-1]",
                                               "v | truncate(9, true, '<Q>', 0)",
                                               "[v] | map('upper') | first",
                                               "v if v else '<Q>'",
                                               "none | default(v)",
                                               "v | format",
                                               "(v ~ '<Q>').splitlines() | last",
                                               "messages | tojson(indent=2)",
                                               "tools | tojson",
                                               "messages",
                                               "tools",
                                               "v.replace('', '<Q>')",
                                               "v.capitalize() ~ '<Q>'.lower()",
                                               "[v, '<Q>'] | sort | join",
                                               "v | string | safe",
                                               "dict(a=v, b='<Q>').items() | list",
                                               "namespace(x=v).x",
                                               "'<Q>'.join([v, v])",
                                               "v.removeprefix('u') ~ v.removesuffix('u')",
                                               "m(v)",
                                               "m('<Q>' ~ v)",
                                               "v | wordcount",
                                               "messages[0].n ~ '<Q>'",
                                               "messages[0] | items | list",
                                               "v.zfill(40)",
                                               "bos_token ~ v"};
const std::vector<std::string> kBlocks = {
    "{{ E }}",
    "{% set x = E %}{{ x }}",
    "{% set x %}<Q>{{ E }}{% endset %}{{ x }}",
    "{% filter upper %}<Q>{{ E }}{% endfilter %}",
    "{% for c in E %}{{ c }}{% endfor %}",
    "{% call c() %}{{ E }}{% endcall %}",
    "{% if E %}<Q>{% endif %}",
    "{%- with y = E %}<Q>{{ y ~ y }}{% endwith %}",
    "{% for k in messages[0] %}{{ k }}{{ messages[0][k] }}{% endfor %}"};
constexpr const char* kMacros =
    "{% macro m(a) %}<Q>{{ a }}{% endmacro %}{% macro c() %}<Q>{{ caller() | trim }}<Q>{% endmacro %}";

}  // namespace

TEST_CASE("trust: what each operation keeps") {
  CHECK(view_of("<Q>{{ v }}<Q>") == "<Q>....<Q>");
  CHECK(view_of("{{ '<Q>' + v + bos_token }}") == "<Q>....<Q>");
  CHECK(view_of("{{ v.split(',') | join('<Q>') }}") == "..<Q>.");
  CHECK(view_of("{{ v | replace(',', '<Q>') | upper }}") == "..<Q>.");
  CHECK(view_of("{{ ('<Q>' ~ v ~ 'yz')[1:-1] }}") == "Q>....y");
  CHECK(view_of("{{ ('<Q>' ~ v) | reverse }}") == "....>Q<");
  CHECK(view_of("{{ '%s<Q>{}' % v }}") == "....<Q>{}");
  CHECK(view_of("{{ '<Q>{}'.format(v) }}") == "<Q>....");
  CHECK(view_of("{{ ['<Q>', v] | tojson }}") == "..<Q>..........");
  CHECK(view_of("{{ v | indent('<Q>', true) }}") == "<Q>....");
  CHECK(view_of("{% set x %}a{{ v }}b{% endset %}{{ x | trim }}") == "a....b");
  CHECK(view_of("{% for m in messages %}<{{ loop.index }}>{% endfor %}") == "<1>");
  CHECK(view_of("{{ v | length }}") == ".");
}

TEST_CASE("trust: text of values never comes out trusted, the template's own always does") {
  std::mt19937_64 random(test::seed());
  auto pick = [&](const std::vector<std::string>& of) { return of[random() % of.size()]; };
  // Values are made of u, n and control tokens of their own letter; the template writes no U in any case.
  auto value = [&] {
    std::string out;
    for (std::size_t n = random() % 4; n-- > 0;)
      out += pick({"<U>", "u", "<|U|>", "\\n", " ", "u,u", "%s{}"});
    return "\"" + out + "<U>\"";
  };
  int rendered = 0;
  for (int turn = 0; turn < 3000; ++turn) {
    std::string body;
    for (std::size_t n = 1 + random() % 3; n-- > 0;) {
      std::string block = pick(kBlocks);
      if (std::size_t at = block.find(" E "); at != block.npos)
        block.replace(at, 3, " " + pick(kExpressions) + " ");
      body += "<Q>" + block + "<Q>";
    }
    std::string source = std::string(kMacros) + "{% set v = messages[0].content %}" + body;
    std::string messages = "[{\"content\":" + value() + "," + value() + ":" + value() + ",\"n\":5}]";
    std::string tools = "[{\"U" + std::to_string(turn) + "\":[" + value() + "]}]";
    INFO(source, " with ", messages);
    MarkedText out;
    try {
      out = render(source, messages, tools);
    } catch (const Error&) {
      continue;
    }
    ++rendered;
    std::string view = trusted_view(out);
    // No letter that only values have is trusted; every Q is, as only the template writes it.
    CHECK(view.find_first_of("uU") == std::string::npos);
    for (std::size_t i = 0; i < out.text.size(); ++i)
      if (out.text[i] == 'Q') CHECK(view[i] == 'Q');
  }
  CHECK(rendered > 1000);
}
