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
// All system messages together stand before the last user message, and so do the tools. Arguments and results of tools are JSON written
// anew, as Python writes it; what is no JSON is a JSON string. Refused is what mistral-common refuses, but for schemas of parameters,
// which are not checked.
constexpr std::string_view kMistralV3Tekken = R"jinja(
{%- macro text_of(message) -%}
  {%- if message.content is string -%}
    {{- message.content -}}
  {%- elif message.content is iterable and message.content is not mapping -%}
    {%- for part in message.content -%}
      {%- if part.type != "text" -%}{{ raise_exception("only text is supported, not " ~ part.type) }}{%- endif -%}
    {%- endfor -%}
    {{- message.content | map(attribute="text") | select | join("\n\n") -}}
  {%- elif message.role != "assistant" -%}
    {{- raise_exception("a message of role " ~ message.role ~ " needs content") -}}
  {%- endif -%}
{%- endmacro -%}

{%- set alphanumeric = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" -%}
{%- macro check_id(id) -%}
  {%- if id is not string or id | length != 9 or id | reject("in", alphanumeric) | list -%}
    {{- raise_exception("a tool call's id must be 9 letters and digits, not " ~ id) -}}
  {%- endif -%}
{%- endmacro -%}
{%- macro check_name(name) -%}
  {%- if name is not string or not name or name | length > 64 or name | reject("in", alphanumeric ~ "_-") | list -%}
    {{- raise_exception("a tool's name must be 1 to 64 letters, digits, _ and -, not " ~ name) -}}
  {%- endif -%}
{%- endmacro -%}

{%- set may_precede = {"system": ["system", "user"], "user": ["system", "user", "assistant", "tool"],
                       "assistant": ["system", "user", "assistant", "tool"], "tool": ["assistant", "tool"]} -%}
{%- set ns = namespace(system=[], turns=[], before="", awaited=0, last_user=0) -%}
{%- for message in messages -%}
  {%- set role = message.role -%}
  {%- if role not in may_precede -%}{{ raise_exception("role " ~ role ~ " is not one of system, user, assistant, tool") }}{%- endif -%}
  {%- if ns.before and ns.before not in may_precede[role] -%}
    {{- raise_exception("a message of role " ~ role ~ " must not follow one of role " ~ ns.before) -}}
  {%- endif -%}
  {%- if loop.length == 1 and role not in ["system", "user"] -%}{{ raise_exception("the first message must be a user's or the system's") }}{%- endif -%}
  {%- set text = text_of(message) -%}
  {%- if role == "system" -%}
    {%- set ns.system = ns.system + ([text] if message.content else []) -%}
  {%- elif role == "tool" -%}
    {{- check_id(message.tool_call_id) -}}
    {%- if message.name is string -%}{{ check_name(message.name) }}{%- endif -%}
    {%- set ns.turns = ns.turns + [{"role": role, "result": {"content": json_or_text(text or "{}"), "call_id": message.tool_call_id}}] -%}
    {%- set ns.awaited = ns.awaited - (0 if loop.first else 1) -%}
  {%- else -%}
    {%- set calls = namespace(list=[]) -%}
    {%- if role == "assistant" -%}
      {%- if ns.awaited != 0 -%}{{ raise_exception("every tool call needs one result before the assistant goes on") }}{%- endif -%}
      {%- for call in message.tool_calls or [] -%}
        {{- check_id(call.id) ~ check_name(call.function.name) -}}
        {%- set arguments = call.function.arguments or "{}" -%}
        {%- if arguments is not string and arguments is not mapping -%}{{ raise_exception("a tool call's arguments must be a string or an object") }}{%- endif -%}
        {%- set calls.list = calls.list + [{"name": call.function.name, "arguments": json_or_text(arguments), "id": call.id}] -%}
      {%- endfor -%}
      {%- if not loop.first -%}{%- set ns.awaited = calls.list | length -%}{%- endif -%}
      {%- if not message.content and not calls.list -%}{{ raise_exception("an assistant message must not be empty") }}{%- endif -%}
      {%- if message.content and calls.list -%}{{ raise_exception("an assistant message holds text or tool calls, not both") }}{%- endif -%}
      {%- if message.prefix and not loop.last -%}{{ raise_exception("only the last message may have \"prefix\": true") }}{%- endif -%}
      {%- if loop.last and add_generation_prompt and not message.prefix -%}
        {{- raise_exception("the last message must be a user's or a tool's, or an assistant's with \"prefix\": true") -}}
      {%- endif -%}
    {%- endif -%}
    {%- set earlier = ns.turns[-1] if role == ns.before else {"texts": [], "calls": []} -%}
    {%- if role == ns.before -%}{%- set ns.turns = ns.turns[:-1] -%}{%- endif -%}
    {%- set ns.turns = ns.turns + [{"role": role, "texts": earlier.texts + ([text] if text else []), "calls": earlier.calls + calls.list, "open": message.prefix}] -%}
  {%- endif -%}
  {%- set ns.before = role -%}
{%- endfor -%}
{%- if not ns.turns or ns.turns[0].role != "user" -%}
  {%- set ns.turns = [{"role": "user", "texts": []}] + ns.turns -%}
{%- endif -%}
{%- for turn in ns.turns if turn.role == "user" -%}{%- set ns.last_user = loop.length -%}{%- endfor -%}

{%- macro available_tools() -%}
  {%- set ns = namespace(list=[]) -%}
  {%- for tool in tools -%}
    {%- if tool.type | default("function") != "function" or tool.function is not mapping -%}
      {{- raise_exception("a tool must be of type function and hold one, not " ~ tool.type) -}}
    {%- endif -%}
    {{- check_name(tool.function.name) -}}
    {%- set parameters = tool.function.parameters if tool.function.parameters is not none and tool.function.parameters is defined else {} -%}
    {%- set description = tool.function.description if tool.function.description is not none and tool.function.description is defined else "" -%}
    {%- if parameters is not mapping or description is not string -%}
      {{- raise_exception("tool " ~ tool.function.name ~ ": parameters must be an object, description a string") -}}
    {%- endif -%}
    {%- set function = {"name": tool.function.name, "description": description, "parameters": parameters} -%}
    {%- set ns.list = ns.list + [{"type": "function", "function": function}] -%}
  {%- endfor -%}
  {{- ns.list | tojson -}}
{%- endmacro -%}

{%- set system = ns.system | join("\n\n") -%}
{%- set users = namespace(seen=0) -%}
{{- "<s>" -}}
{%- for turn in ns.turns -%}
  {%- if turn.role == "user" -%}
    {%- set users.seen = users.seen + 1 -%}
    {%- set is_last = users.seen == ns.last_user -%}
    {%- if is_last and tools -%}{{ "[AVAILABLE_TOOLS]" ~ available_tools() ~ "[/AVAILABLE_TOOLS]" }}{%- endif -%}
    {{- "[INST]" -}}
    {%- if is_last and system -%}{{ system ~ "\n\n" }}{%- endif -%}
    {{- turn.texts | join("\n\n") ~ "[/INST]" -}}
  {%- elif turn.role == "tool" -%}
    {{- "[TOOL_RESULTS]" ~ turn.result | tojson ~ "[/TOOL_RESULTS]" -}}
  {%- else -%}
    {%- if turn.calls and turn.texts -%}{{ raise_exception("an assistant's turn holds text or tool calls, not both") }}{%- endif -%}
    {%- if not turn.calls and not turn.texts -%}{{ raise_exception("an assistant message must not be empty") }}{%- endif -%}
    {%- if turn.calls -%}{{ "[TOOL_CALLS]" ~ turn.calls | tojson }}{%- else -%}{{ (turn.texts | join("\n\n")).rstrip(" ") }}{%- endif -%}
    {%- if not (loop.last and turn.open) -%}{{ "</s>" }}{%- endif -%}
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
