// repr() of values, as Python writes them.
#include <fmt/format.h>
#include <utf8proc.h>

#include "text/jinja_value.h"

namespace fastgen::jinja {

namespace {

bool is_printable(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return c == ' ';
    default:
      return true;
  }
}

std::string escaped(char32_t c) {
  auto code = static_cast<std::uint32_t>(c);
  if (c == '\n') return "\\n";
  if (c == '\r') return "\\r";
  if (c == '\t') return "\\t";
  if (code < 0x100) return fmt::format("\\x{:02x}", code);
  return code < 0x10000 ? fmt::format("\\u{:04x}", code) : fmt::format("\\U{:08x}", code);
}

void append_string_repr(Text& out, const Text& text) {
  std::string_view s = text.bytes;
  bool has_single = s.find('\'') != s.npos;
  char quote = has_single && s.find('"') == s.npos ? '"' : '\'';
  out.append(std::string_view(&quote, 1));
  std::size_t plain = 0;  // the bytes since here go out as they are
  for (std::size_t pos = 0; pos < s.size();) {
    std::size_t begin = pos;
    char32_t c = next_code_point(s, pos);
    bool backslash = c == '\\' || c == static_cast<unsigned char>(quote);
    if (!backslash && is_printable(c)) continue;
    out.append(text, plain, begin);
    out.append(backslash ? std::string{'\\', static_cast<char>(c)} : escaped(c));
    plain = pos;
  }
  out.append(text, plain, s.size());
  out.append(std::string_view(&quote, 1));
}

void append_items(Text& out, const std::vector<Value>& items) {
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i) out.append(", ");
    append_repr(out, items[i]);
  }
}

void append_list_repr(Text& out, const Value& list) {
  const auto& items = list.items();
  ListKind kind = list.list_data().kind;
  if (kind == ListKind::kGenerator) return out.append("<generator object>");
  if (kind == ListKind::kRange && items.empty()) return out.append("range(0, 0)");
  if (kind == ListKind::kRange) {
    std::int64_t step = items.size() > 1 ? items[1].as_int() - items[0].as_int() : 1;
    out.append(fmt::format("range({}, {}", items[0].as_int(), items.back().as_int() + step));
    return out.append(step == 1 ? ")" : fmt::format(", {})", step));
  }
  bool view = kind >= ListKind::kDictKeys;
  if (view) out.append(fmt::format("{}(", python_type(list)));
  out.append(kind == ListKind::kTuple ? "(" : "[");
  append_items(out, items);
  if (kind == ListKind::kTuple && items.size() == 1) out.append(",");
  out.append(kind == ListKind::kTuple ? ")" : "]");
  if (view) out.append(")");
}

void append_dict_repr(Text& out, const Dict& dict) {
  out.append("{");
  bool first = true;
  for (const auto& [key, value] : dict.entries()) {
    if (!first) out.append(", ");
    first = false;
    append_repr(out, key);
    out.append(": ");
    append_repr(out, value);
  }
  out.append("}");
}

}  // namespace

void append_repr(Text& out, const Value& value) {
  charge_steps(1);
  switch (value.type()) {
    case Type::kUndefined:
      return out.append("Undefined");
    case Type::kNone:
      return out.append("None");
    case Type::kBool:
      return out.append(value.as_bool() ? "True" : "False");
    case Type::kInt:
      return out.append(std::to_string(value.as_int()), value.is_trusted_number());
    case Type::kFloat:
      return out.append(float_repr(value.as_double()));
    case Type::kString:
      return append_string_repr(out, value.text());
    case Type::kList:
      return append_list_repr(out, value);
    case Type::kDict:
      return append_dict_repr(out, value.dict());
    case Type::kObject:
      return out.append(value.object().repr());
  }
}

}  // namespace fastgen::jinja
