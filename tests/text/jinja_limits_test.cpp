// Nothing that a template or message does may crash, hang or take all memory.
#include <chrono>
#include <string>

#include "fastgen/error.h"
#include "fastgen/text.h"
#include "support/support.h"

using namespace fastgen;

namespace {

std::string repeat(const std::string& s, std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += s;
  return out;
}

// The error of parsing and rendering, or the first bytes of the text.
std::string outcome(const std::string& source, const std::string& messages = "[]") {
  RenderInput input;
  input.messages_json = messages;
  try {
    return ChatTemplate::parse(source, "t")->render(input).text.substr(0, 20);
  } catch (const Error& error) {
    return std::string("ERROR ") + error.what();
  }
}

void check_fails(const std::string& source, const std::string& with, const std::string& messages = "[]") {
  INFO(source.substr(0, 200));
  auto begin = std::chrono::steady_clock::now();
  std::string what = outcome(source, messages);
  CHECK(what.starts_with("ERROR "));
  CHECK_MESSAGE(what.find(with) != std::string::npos, what);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(60));
}

}  // namespace

TEST_CASE("limits: nesting of the source") {
  check_fails("{{ " + repeat("(", 100000) + "1" + repeat(")", 100000) + " }}", "too deep");
  check_fails("{{ " + repeat("-", 100000) + "1 }}", "too deep");
  check_fails("{{ " + repeat("not ", 100000) + "1 }}", "too deep");
  check_fails("{{ " + repeat("[", 100000), "too deep");
  check_fails("{{ 1 " + repeat("if 1 else 1 ", 80000) + " }}", "too deep");
  check_fails("{{ 1" + repeat(" + 1", 100000) + " }}", "too long");
  check_fails("{{ a" + repeat(".a", 100000) + " }}", "too long");
  check_fails("{{ a" + repeat("|e", 100000) + " }}", "too long");
  check_fails(repeat("{% if 1 %}", 50000), "too deep");
  check_fails("{% set " + repeat("(", 50000), "too deep");
  check_fails(repeat("x", 2 << 20), "1 MiB");
  CHECK(outcome("{{ 1" + repeat(" + 1", 500) + " }}") == "501");
  CHECK(outcome("{{ " + repeat("(", 20) + "1" + repeat(")", 20) + " }}") == "1");
}

TEST_CASE("limits: recursion, steps and memory") {
  check_fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion");
  check_fails("{% macro f(n) %}{% call f(n) %}{{ caller() }}{% endcall %}{% endmacro %}{{ f(1) }}",
              "recursion");
  check_fails("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursion");
  std::string loops = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
  check_fails(loops, "LimitError");
  check_fails("{{ range(10 ** 9) }}", "Range too big");
  check_fails("{{ 'x' * 10 ** 12 }}", "64 MiB");
  check_fails("{{ [0] * 10 ** 12 }}", "too long");
  check_fails("{{ 'x'.ljust(10 ** 12) }}", "64 MiB");
  check_fails("{{ '%1000000000d' % 1 }}", "too big");
  check_fails("{{ 'a\nb' | indent(10 ** 12) }}", "64 MiB");
  check_fails("{{ [1] | tojson(indent=10 ** 12) }}", "64 MiB");
  check_fails("{{ 10 ** 100 }}", "64 bits");
  check_fails("{{ 9223372036854775807 + 1 }}", "64 bits");
  check_fails(
      "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
      "64 MiB");
  check_fails(
      "{% set ns = namespace(l=[], x='x') %}{% for i in range(22) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
      "{% for i in range(9999) %}{% set ns.l = ns.l + [ns.x ~ i] %}{% endfor %}",
      "memory");
  check_fails(
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
      "LimitError");
  check_fails("{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}",
              "nested too deep");
  check_fails(
      "{% set ns = namespace(l=0) %}{% for i in range(9999) %}{% set ns.l = cycler(ns.l) %}{% endfor %}",
      "nested too deep");
  // A row that holds itself twice, sixty times over: small to keep, endless to print or to compare.
  std::string doubled =
      "{% set ns = namespace(l=[1], k=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% set "
      "ns.k = [ns.k, ns.k] %}{% endfor %}";
  check_fails(doubled + "{{ ns.l }}", "LimitError");
  check_fails(doubled + "{{ ns.l | tojson }}", "LimitError");
  check_fails(doubled + "{{ ns.l == ns.k }}", "LimitError");
  std::string text = "[{\"content\":\"" + repeat("ab ", 300000) + "\"}]";
  check_fails("{% for i in range(100000) %}{{ messages[0].content[i] }}{% endfor %}", "LimitError", text);
  check_fails("{% for i in range(100000) %}{{ messages[0].content | upper }}{% endfor %}", "LimitError",
              text);
  check_fails("{{ messages[0].content.replace('a', messages[0].content) }}", "64 MiB", text);
}

TEST_CASE("limits: circles and long chains are freed") {
  CHECK(outcome("{% set ns = namespace() %}{% set ns.me = [ns] %}{% macro m() %}{% endmacro %}{% set ns.m = "
                "m %}ok") == "ok");
  CHECK(outcome("{% set ns = namespace(n=0) %}{% for i in range(50000) %}{% set ns.n = namespace(p=ns.n) "
                "%}{% endfor %}ok") == "ok");
  CHECK(outcome("{% set ns = namespace(x=0) %}{% macro m(p) %}{% macro k() %}{% endmacro %}{% set ns.x = k "
                "%}{% endmacro %}"
                "{% for i in range(50000) %}{{ m(ns.x) }}{% endfor %}ok") == "ok");
  CHECK(outcome("{% set ns = namespace(f=0) %}{% for i in [1] %}{% set ns.f = loop.changed %}{{ "
                "loop.changed(loop) }}{% endfor %}"
                "{{ ns.f(ns) }}") == "TrueTrue");
}

TEST_CASE("limits: messages") {
  check_fails("x", "messages", "[" + repeat("[", 100000));
  check_fails("x", "messages", repeat("[", 500) + repeat("]", 500));
  check_fails("x", "messages", "[\"\xff\"]");
  check_fails("x", "messages", "{}");
  check_fails("x", "messages", "[1,]");
  check_fails("x", "64 bits", "[18446744073709551615]");
  CHECK(outcome("{{ messages }}", R"([{"a":1,"b":2,"a":3}])") == "[{'a': 3, 'b': 2}]");
}
