#include "text/jinja_json.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <cmath>

#include "fastgen/error.h"

namespace fastgen::jinja {

namespace {

namespace dom = simdjson::dom;

Value from_dom(const dom::element& element, std::string_view what) {
  switch (element.type()) {
    case dom::element_type::NULL_VALUE:
      return {};
    case dom::element_type::BOOL:
      return Value::boolean(bool(element));
    case dom::element_type::INT64:
      return Value::integer(std::int64_t(element));
    case dom::element_type::UINT64:
      throw Error(fmt::format("{}: an integer has more than 64 bits", what));
    case dom::element_type::DOUBLE:
      return Value::real(double(element));
    case dom::element_type::STRING:
      return Value::string(std::string(std::string_view(element)));
    case dom::element_type::ARRAY: {
      std::vector<Value> items;
      for (dom::element item : dom::array(element)) items.push_back(from_dom(item, what));
      return Value::list(std::move(items));
    }
    case dom::element_type::OBJECT: {
      auto dict = std::make_shared<Dict>();
      for (dom::key_value_pair field : dom::object(element))
        dict->set(Value::string(std::string(field.key)), from_dom(field.value, what));
      return Value::dict(std::move(dict));
    }
  }
  return {};
}

Value parse(std::string_view json, std::string_view what) {
  dom::parser parser(simdjson::SIMDJSON_MAXSIZE_BYTES);
  // simdjson's depth counts the document too.
  if (auto error = parser.allocate(std::max<std::size_t>(json.size(), 64), kMaxNesting)) throw simdjson::simdjson_error(error);
  return from_dom(parser.parse(json.data(), json.size()), what);
}

// Whether the text would be JSON if its integers of more than 18 digits were shorter: simdjson calls those and what is no number the same.
bool is_json_with_long_integers(std::string_view json) {
  std::string shorter;
  bool in_string = false;
  for (std::size_t at = 0; at < json.size(); ++at) {
    if (json[at] == '"') in_string = !in_string;
    std::size_t end = at;
    while (!in_string && end < json.size() && json[end] >= '0' && json[end] <= '9') ++end;
    const bool is_long = end - at > 18;
    shorter += is_long ? '1' : json[at];
    if (is_long) at = end - 1;
    if (in_string && json[at] == '\\' && at + 1 < json.size()) shorter += json[++at];
  }
  dom::parser parser;
  return !parser.parse(shorter).error();
}

class Dumper {
 public:
  explicit Dumper(const JsonStyle& style) : style_(style) {}

  Text run(const Value& value) {
    dump(value);
    return std::move(out_);
  }

 private:
  void dump(const Value& value) {
    charge_steps(1);
    switch (value.type()) {
      case Type::kNone:
        return out_.append("null");
      case Type::kBool:
        return out_.append(value.as_bool() ? "true" : "false");
      case Type::kInt:
        return out_.append(std::to_string(value.as_int()), value.is_trusted_number());
      case Type::kFloat:
        return out_.append(number(value.as_double()));
      case Type::kString:
        return dump_string(value.text());
      case Type::kDict:
        return dump_dict(value.dict());
      case Type::kList:
        if (value.list_data().kind <= ListKind::kTuple) return dump_list(value);
        [[fallthrough]];
      default:
        fail("TypeError", fmt::format("Object of type {} is not JSON serializable", type_name(value)));
    }
  }

  static std::string number(double d) {
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
    return float_repr(d);
  }

  static std::string escape(char32_t c) {
    switch (c) {
      case '"':
        return "\\\"";
      case '\\':
        return "\\\\";
      case '\n':
        return "\\n";
      case '\r':
        return "\\r";
      case '\t':
        return "\\t";
      case '\b':
        return "\\b";
      case '\f':
        return "\\f";
      default:
        break;
    }
    auto code = static_cast<std::uint32_t>(c);
    if (code < 0x10000) return fmt::format("\\u{:04x}", code);
    code -= 0x10000;
    return fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF));
  }

  void dump_string(const Text& text) {
    std::string_view s = text.bytes;
    out_.append("\"");
    std::size_t plain = 0;
    for (std::size_t pos = 0; pos < s.size();) {
      std::size_t begin = pos;
      char32_t c = next_code_point(s, pos);
      bool plain_char = c != '"' && c != '\\' && c >= 0x20 && (c < 0x7F || !style_.ensure_ascii || c == 0x7F);
      if (plain_char) continue;
      out_.append(text, plain, begin);
      out_.append(escape(c));
      plain = pos;
    }
    out_.append(text, plain, s.size());
    out_.append("\"");
  }

  // Between items, and inside of the brackets.
  void new_line(bool needs_separator) {
    if (needs_separator) out_.append(style_.item_separator);
    if (!style_.indent) return;
    out_.append("\n");
    out_.append(repeated(*style_.indent, level_));
  }

  static std::string repeated(const std::string& s, std::size_t count) {
    check_text_size(s.size() * count);
    std::string out;
    for (std::size_t i = 0; i < count; ++i) out += s;
    return out;
  }

  void dump_list(const Value& list) {
    if (list.items().empty()) return out_.append("[]");
    out_.append("[");
    ++level_;
    for (std::size_t i = 0; i < list.items().size(); ++i) {
      new_line(i != 0);
      dump(list.items()[i]);
    }
    --level_;
    new_line(false);
    out_.append("]");
  }

  void dump_dict(const Dict& dict) {
    if (dict.size() == 0) return out_.append("{}");
    std::vector<Value> keys;
    for (const auto& entry : dict.entries()) keys.push_back(entry.first);
    if (style_.sort_keys)
      std::stable_sort(keys.begin(), keys.end(), [](const Value& a, const Value& b) { return less(a, b); });
    out_.append("{");
    ++level_;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      new_line(i != 0);
      dump_key(keys[i]);
      out_.append(style_.key_separator);
      dump(*dict.find(keys[i]));
    }
    --level_;
    new_line(false);
    out_.append("}");
  }

  void dump_key(const Value& key) {
    if (key.is_string()) return dump_string(key.text());
    if (!key.is_none() && !key.is_number())
      fail("TypeError", fmt::format("keys must be str, int, float, bool or None, not {}", type_name(key)));
    out_.append("\"");
    dump(key);
    out_.append("\"");
  }

  const JsonStyle& style_;
  Text out_;
  std::size_t level_ = 0;
};

}  // namespace

Value parse_json(std::string_view json, std::string_view what) {
  try {
    return parse(json, what);
  } catch (const simdjson::simdjson_error& error) {
    throw Error(fmt::format("{}: {}", what, error.what()));
  } catch (const RenderError& error) {
    throw Error(fmt::format("{}: {}", what, error.what()));
  }
}

std::optional<Value> try_parse_json(std::string_view json) {
  charge_steps(json.size() / 16);
  try {
    return parse(json, "JSON in a text");
  } catch (const simdjson::simdjson_error& error) {
    if (error.error() == simdjson::DEPTH_ERROR) fail("ValueError", "JSON in a text is nested too deep");
    if (error.error() == simdjson::NUMBER_ERROR && is_json_with_long_integers(json)) fail("ValueError", "JSON in a text: an integer has more than 64 bits");
    return std::nullopt;
  } catch (const Error& error) {
    fail("ValueError", error.what());
  }
}

Text dump_json(const Value& value, const JsonStyle& style) { return Dumper(style).run(value); }

}  // namespace fastgen::jinja
