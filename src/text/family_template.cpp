// Chat formats of families whose folders may lack a template, so far Mistral's. It is written from what mistral-common makes of
// conversations (tests/golden/templates/mistral_v3_tekken.jsonl), in Jinja like any other, so that control tokens in messages stay text.
#include <algorithm>
#include <array>
#include <string_view>

#include "fastgen/text.h"
#include "text/tokenizer_impl.h"

namespace fastgen {

namespace {

// Version v3 of the tekken tokenizers. Messages of one role that follow each other directly are one, with an empty line between texts.
// All system messages together stand before the last user message. Tools would need their results as parsed JSON, so they are refused.
constexpr std::string_view kMistralV3Tekken = R"jinja(
{%- macro text_of(message) -%}
  {%- if message.content is string -%}
    {{- message.content -}}
  {%- elif message.content is iterable -%}
    {%- for part in message.content -%}
      {%- if part.type != "text" -%}{{ raise_exception("only text is supported, not " ~ part.type) }}{%- endif -%}
      {%- if not loop.first -%}{{ "\n\n" }}{%- endif -%}
      {{- part.text -}}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}

{%- if tools -%}{{ raise_exception("the built-in Mistral format has no tools; start with --chat-template and the model's own template") }}{%- endif -%}
{%- set ns = namespace(system=[], turns=[], before="") -%}
{%- for message in messages -%}
  {%- if message.role == "tool" or message.tool_calls -%}
    {{- raise_exception("the built-in Mistral format has no tools; start with --chat-template and the model's own template") -}}
  {%- elif message.role == "system" -%}
    {%- if ns.turns and ns.turns[-1].role == "assistant" -%}{{ raise_exception("a system message must not follow an assistant's") }}{%- endif -%}
    {%- set ns.system = ns.system + ([text_of(message)] if text_of(message) else []) -%}
  {%- elif message.role not in ["user", "assistant"] -%}
    {{- raise_exception("role " ~ message.role ~ " is not one of system, user, assistant") -}}
  {%- else -%}
    {%- set texts = [text_of(message)] if text_of(message) else [] -%}
    {%- if message.role == "assistant" and not texts -%}{{ raise_exception("an assistant message must not be empty") }}{%- endif -%}
    {%- if message.role == ns.before -%}
      {%- set texts = ns.turns[-1].texts + texts -%}
      {%- set ns.turns = ns.turns[:-1] -%}
    {%- endif -%}
    {%- set ns.turns = ns.turns + [{"role": message.role, "texts": texts, "open": message.prefix}] -%}
  {%- endif -%}
  {%- set ns.before = message.role -%}
{%- endfor -%}
{%- if not ns.turns or ns.turns[0].role == "assistant" -%}
  {%- set ns.turns = [{"role": "user", "texts": []}] + ns.turns -%}
{%- endif -%}
{%- set last_user = ns.turns | length - (1 if ns.turns[-1].role == "user" else 2) -%}
{%- set system = ns.system | join("\n\n") -%}

{{- "<s>" -}}
{%- for turn in ns.turns -%}
  {%- if turn.role == "user" -%}
    {{- "[INST]" -}}
    {%- if loop.index0 == last_user and system -%}{{ system ~ "\n\n" }}{%- endif -%}
    {{- turn.texts | join("\n\n") ~ "[/INST]" -}}
  {%- else -%}
    {{- (turn.texts | join("\n\n")).rstrip(" ") -}}
    {%- if not (loop.last and turn.open) -%}
      {%- if loop.last and add_generation_prompt -%}{{ raise_exception("the last message must be a user's, or an assistant's with \"prefix\": true") }}{%- endif -%}
      {{- "</s>" -}}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
)jinja";

// Of v3: byte-level words, its control tokens, and not [SYSTEM_PROMPT], which came with the next version.
bool is_mistral_v3_tekken(const Tokenizer& tokenizer) {
  constexpr std::array<std::string_view, 6> kNeeded = {"<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]"};
  const auto is_control = [&](std::string_view name) {
    const auto id = tokenizer.find(name);
    return id && tokenizer.is_special(*id);
  };
  return tokenizer.impl().pre_tokenizer.byte_level() && std::all_of(kNeeded.begin(), kNeeded.end(), is_control) && !tokenizer.find("[SYSTEM_PROMPT]");
}

}  // namespace

std::shared_ptr<const ChatTemplate> ChatTemplate::of_family(const Tokenizer& tokenizer) {
  return is_mistral_v3_tekken(tokenizer) ? parse(kMistralV3Tekken, "built-in Mistral v3-tekken template") : nullptr;
}

}  // namespace fastgen
