// Filters on one string, number or value.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "text/jinja_builtins.h"
#include "text/jinja_json.h"

namespace fastgen::jinja {

namespace {

// Filters turn what they get into a string, as Jinja2's soft_str.
Value as_string(const Value& value) { return value.is_string() ? value : Value::string(to_text(value)); }

// For the few that take no other type: indent appends to it first, and truncate cuts it.
const Value& only_string(const Value& value) {
  value.require_defined();
  if (value.is_string()) return value;
  fail("TypeError", fmt::format("unsupported operand type(s) for +=: '{}' and 'str'", type_name(value)));
}

Value call_method(const Value& self, std::string_view name, Args& args) {
  return find_string_method(name)(self, args);
}

template <const char* const& name>
Value by_method(const Value& input, Args& args) {
  return call_method(as_string(input), name, args);
}
constexpr const char* kUpper = "upper";
constexpr const char* kLower = "lower";
constexpr const char* kCapitalize = "capitalize";

Value string(const Value& input, Args& args) {
  bind(args, "string", {});
  return as_string(input);
}

Value trim(const Value& input, Args& args) {
  auto bound = bind(args, "trim", {"chars"});
  Args strip;
  if (bound[0]) strip.positional.push_back(*bound[0]);
  return call_method(as_string(input), "strip", strip);
}

// Jinja2's own title(): words begin after white space and brackets, the rest is lower case.
Value title(const Value& input, Args& args) {
  bind(args, "title", {});
  Value value = as_string(input);
  const Text& text = value.text();
  charge_steps(text.size() / 8);
  Text out;
  bool begins = true;
  for (std::size_t pos = 0; pos < text.size();) {
    std::size_t begin = pos;
    char32_t c = next_code_point(text.bytes, pos);
    append_mapped(out, text, begin, pos, begins ? Case::kUpper : Case::kLower);
    bool is_break =
        c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) != std::string_view::npos;
    begins = is_space(c) || is_break;
  }
  return Value::string(std::move(out));
}

Value replace(const Value& input, Args& args) {
  auto bound = bind(args, "do_replace", {"old", "new", "count"});
  if (!bound[0] || !bound[1]) fail("TypeError", "do_replace() missing required positional arguments");
  Args call;
  call.positional = {as_string(*bound[0]), as_string(*bound[1])};
  if (bound[2] && !bound[2]->is_none()) call.positional.push_back(*bound[2]);
  return call_method(as_string(input), "replace", call);
}

Value format(const Value& input, Args& args) {
  if (!args.positional.empty() && !args.named.empty())
    fail("FilterArgumentError", "can't handle positional and keyword arguments at the same time");
  Value format = as_string(input);
  if (args.named.empty())
    return Value::string(format_percent(format.text(), Value::list(args.positional, ListKind::kTuple)));
  auto dict = std::make_shared<Dict>();
  for (const auto& [name, value] : args.named) dict->set(Value::string(name), value);
  return Value::string(format_percent(format.text(), Value::dict(std::move(dict))));
}

Value indent(const Value& input, Args& args) {
  auto bound = bind(args, "do_indent", {"width", "first", "blank"});
  bool first = bool_argument(bound[1], false);
  bool blank = bool_argument(bound[2], false);
  Text prefix;
  if (bound[0] && bound[0]->is_string())
    prefix = bound[0]->text();
  else
    prefix = repeated(Text(" "), int_argument(bound[0], 4));
  const Value value = only_string(input);
  Args none;
  std::vector<Value> lines = call_method(value, "splitlines", none).items();
  // Jinja2 adds a newline before it splits, so that a last empty line counts.
  bool ends_line = value.str().empty() || value.str().back() == '\n';
  if (ends_line) lines.push_back(Value::string(Text()));
  bool is_template = value.text().is_trusted(0, value.str().size());
  Text out;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i) out.append("\n", is_template);
    bool wants_prefix = i == 0 ? first : blank || !lines[i].str().empty();
    if (wants_prefix) out.append(prefix);
    out.append(lines[i].text());
  }
  return Value::string(std::move(out));
}

Value escape(const Value& input, Args& args) {
  bind(args, "escape", {});
  Value value = as_string(input);
  const Text& text = value.text();
  Text out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    switch (text.bytes[i]) {
      case '&':
        out.append("&amp;");
        break;
      case '<':
        out.append("&lt;");
        break;
      case '>':
        out.append("&gt;");
        break;
      case '\'':
        out.append("&#39;");
        break;
      case '"':
        out.append("&#34;");
        break;
      default:
        out.append(text, i, i + 1);
    }
  }
  return Value::string(std::move(out));
}

Value urlencode(const Value& input, Args& args) {
  bind(args, "urlencode", {});
  auto quoted = [](Text& out, const Text& text, std::string_view safe) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      char c = text.bytes[i];
      bool plain =
          (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || safe.find(c) != safe.npos;
      if (plain)
        out.append(text, i, i + 1);
      else if (c == ' ' && safe.find('/') == safe.npos)
        out.append("+");  // within a query
      else
        out.append(fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c))));
    }
  };
  Text out;
  if (!input.is_dict()) {
    quoted(out, to_text(input), "_.-~/");
    return Value::string(std::move(out));
  }
  for (const auto& [key, value] : input.dict().entries()) {
    if (out.size()) out.append("&");
    quoted(out, to_text(key), "_.-~");
    out.append("=");
    quoted(out, to_text(value), "_.-~");
  }
  return Value::string(std::move(out));
}

Value truncate(const Value& input, Args& args) {
  auto bound = bind(args, "do_truncate", {"length", "killwords", "end", "leeway"});
  std::int64_t limit = int_argument(bound[0], 255);
  Value end = bound[2] ? as_string(*bound[2]) : Value::string(Text::from_template("..."));
  std::int64_t leeway = int_argument(bound[3], 5);
  auto end_size = static_cast<std::int64_t>(length(end));
  if (limit < end_size) fail("AssertionError", fmt::format("expected length >= {}, got {}", end_size, limit));
  if (leeway < 0) fail("AssertionError", fmt::format("expected leeway >= 0, got {}", leeway));
  if (static_cast<std::int64_t>(length(input)) - leeway <= limit) return input;
  const Value value = only_string(input);
  std::size_t cut = byte_offset(value.str(), static_cast<std::size_t>(limit - end_size));
  if (!bool_argument(bound[1], false)) {
    std::size_t space = value.str().substr(0, cut).rfind(' ');
    if (space != std::string::npos) cut = space;
  }
  Text out = value.text().slice(0, cut);
  out.append(end.text());
  return Value::string(std::move(out));
}

Value center(const Value& input, Args& args) {
  auto bound = bind(args, "do_center", {"width"});
  Args call;
  call.positional.push_back(Value::integer(int_argument(bound[0], 80)));
  return call_method(as_string(input), "center", call);
}

Value wordcount(const Value& input, Args& args) {
  bind(args, "do_wordcount", {});
  Value value = as_string(input);
  std::string_view s = value.str();
  charge_steps(s.size() / 16);
  std::int64_t count = 0;
  bool in_word = false;
  for (std::size_t pos = 0; pos < s.size();) {
    char32_t c = next_code_point(s, pos);
    Args none;
    std::string one;
    append_utf8(one, c);
    bool is_word = c == '_' || find_string_method("isalnum")(Value::string(one), none).as_bool();
    count += is_word && !in_word;
    in_word = is_word;
  }
  return Value::integer(count);
}

Value default_value(const Value& input, Args& args) {
  auto bound = bind(args, "do_default", {"default_value", "boolean"});
  bool missing = input.is_undefined() || (bool_argument(bound[1], false) && !truthy(input));
  if (!missing) return input;
  return bound[0] ? *bound[0] : Value::string(Text());
}

Value tojson(const Value& input, Args& args) {
  auto bound = bind(args, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bool_argument(bound[0], false);
  style.sort_keys = bool_argument(bound[3], false);
  if (bound[1] && bound[1]->is_string())
    style.indent = bound[1]->str();
  else if (bound[1] && !bound[1]->is_none())
    style.indent = repeated(Text(" "), int_argument(bound[1], 0)).bytes;
  if (style.indent) style.item_separator = ",";
  if (bound[2] && !bound[2]->is_none()) {
    std::vector<Value> separators = iterate(*bound[2]);
    if (separators.size() != 2) fail("ValueError", "separators must be two strings");
    style.item_separator = text_argument(separators[0], "a separator").bytes;
    style.key_separator = text_argument(separators[1], "a separator").bytes;
  }
  return Value::string(dump_json(input, style));
}

}  // namespace

Filter find_text_filter(std::string_view name) {
  static const std::map<std::string_view, Filter> kFilters = {
      {"capitalize", by_method<kCapitalize>},
      {"center", center},
      {"d", default_value},
      {"default", default_value},
      {"e", escape},
      {"escape", escape},
      {"forceescape", escape},
      {"format", format},
      {"indent", indent},
      {"lower", by_method<kLower>},
      {"replace", replace},
      {"safe", string},
      {"string", string},
      {"title", title},
      {"tojson", tojson},
      {"trim", trim},
      {"truncate", truncate},
      {"upper", by_method<kUpper>},
      {"urlencode", urlencode},
      {"wordcount", wordcount}};
  auto it = kFilters.find(name);
  return it == kFilters.end() ? nullptr : it->second;
}

Filter find_filter(std::string_view name) {
  for (auto find : {find_text_filter, find_number_filter, find_list_filter})
    if (Filter filter = find(name)) return filter;
  return nullptr;
}

}  // namespace fastgen::jinja
