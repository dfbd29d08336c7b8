#include "text/jinja_value.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace fastgen::jinja {

namespace {

std::uint32_t deeper(std::uint32_t depth, const Value& value) {
  return std::max(depth, nesting_above(value));
}

// Equal keys have equal strings: 1, 1.0 and True are one key, as in Python.
void append_hash_key(std::string& out, const Value& key) {
  switch (key.type()) {
    case Type::kString:
      out += fmt::format("s{}:", key.str().size());
      out += key.str();
      return;
    case Type::kBool:
    case Type::kInt:
      out += fmt::format("i{};", key.as_int());
      return;
    case Type::kFloat: {
      double d = key.as_double();
      bool whole = std::abs(d) < 9e15 && d == std::floor(d);
      out += whole ? fmt::format("i{};", static_cast<std::int64_t>(d)) : fmt::format("f{};", d);
      return;
    }
    case Type::kNone:
      out += "n;";
      return;
    case Type::kList:
      if (key.list_data().kind != ListKind::kTuple) break;
      charge_steps(key.items().size() + out.size() / 256);
      check_text_size(out.size());
      out += "t(";
      for (const Value& item : key.items()) append_hash_key(out, item);
      out += ")";
      return;
    case Type::kUndefined:
      out += "u;";
      return;
    case Type::kDict:
      break;
    case Type::kObject:
      out += fmt::format("o{};", key.identity());
      return;
  }
  fail("TypeError", fmt::format("unhashable type: '{}'", python_type(key)));
}

std::string hash_key(const Value& key) {
  std::string out;
  append_hash_key(out, key);
  return out;
}

bool equal_lists(const Value& a, const Value& b) {
  if (a.list_data().kind != b.list_data().kind || a.items().size() != b.items().size()) return false;
  for (std::size_t i = 0; i < a.items().size(); ++i)
    if (!equal(a.items()[i], b.items()[i])) return false;
  return true;
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [key, value] : a.entries()) {
    const Value* other = b.find(key);
    if (!other || !equal(value, *other)) return false;
  }
  return true;
}

bool less_lists(const Value& a, const Value& b, const char* op) {
  std::size_t common = std::min(a.items().size(), b.items().size());
  for (std::size_t i = 0; i < common; ++i)
    if (!equal(a.items()[i], b.items()[i])) return less(a.items()[i], b.items()[i], op);
  return a.items().size() < b.items().size();
}

}  // namespace

Value Value::undefined(std::string message, const char* kind) {
  auto data = std::make_shared<UndefinedData>();
  data->message = std::move(message);
  data->kind = kind;
  Value value;
  value.type_ = Type::kUndefined;
  value.heap_ = std::move(data);
  return value;
}

Value Value::boolean(bool b) {
  Value value;
  value.type_ = Type::kBool;
  value.number_.i = b;
  return value;
}

Value Value::integer(std::int64_t i, bool trusted) {
  Value value;
  value.type_ = Type::kInt;
  value.trusted_ = trusted;
  value.number_.i = i;
  return value;
}

Value Value::real(double d) {
  Value value;
  value.type_ = Type::kFloat;
  value.number_.d = d;
  return value;
}

Value Value::string(Text text) {
  check_text_size(text.size());
  auto data = std::make_shared<StringData>();
  data->charged = charge_bytes(sizeof(StringData) + text.size() + text.trusted.size() * sizeof(ByteRange));
  data->text = std::move(text);
  Value value;
  value.type_ = Type::kString;
  value.heap_ = std::move(data);
  return value;
}

Value Value::list(std::vector<Value> items, ListKind kind) {
  auto data = std::make_shared<ListData>();
  data->charged = charge_bytes(sizeof(ListData) + items.size() * sizeof(Value));
  data->kind = kind;
  for (const Value& item : items) data->depth = deeper(data->depth, item);
  data->items = std::move(items);
  Value value;
  value.type_ = Type::kList;
  value.heap_ = std::move(data);
  return value;
}

Value Value::group(Value grouper, Value members) {
  Value value = list({std::move(grouper), std::move(members)}, ListKind::kTuple);
  static_cast<ListData*>(value.heap_.get())->is_group = true;
  return value;
}

Value Value::dict(std::shared_ptr<Dict> dict) {
  Value value;
  value.type_ = Type::kDict;
  value.heap_ = std::move(dict);
  return value;
}

Value Value::object(std::shared_ptr<Object> object) {
  Value value;
  value.type_ = Type::kObject;
  value.heap_ = std::move(object);
  return value;
}

const Dict& Value::dict() const { return *static_cast<const Dict*>(heap_.get()); }
Object& Value::object() const { return *static_cast<Object*>(heap_.get()); }

void Value::require_defined() const {
  if (is_undefined()) fail(undefined_data().kind, undefined_data().message);
}

std::uint32_t Value::depth() const {
  if (is_list()) return list_data().depth;
  if (is(Type::kObject)) return object().depth;
  return is_dict() ? dict().depth() : 0;
}

std::optional<std::size_t> Dict::index_of(const std::string& hash) const {
  auto it = index_.find(hash);
  if (it == index_.end()) return std::nullopt;
  return it->second;
}

const Value* Dict::find(std::string_view key) const {
  if (entries_.size() <= 8) {
    for (const auto& [name, value] : entries_)
      if (name.is_string() && name.str() == key) return &value;
    return nullptr;
  }
  auto idx = index_of(fmt::format("s{}:{}", key.size(), key));
  return idx ? &entries_[*idx].second : nullptr;
}

const Value* Dict::find(const Value& key) const {
  if (key.is_string()) return find(std::string_view(key.str()));
  auto idx = index_of(hash_key(key));
  return idx ? &entries_[*idx].second : nullptr;
}

void Dict::set(const Value& key, Value value) {
  std::string hash = hash_key(key);
  depth_ = deeper(deeper(depth_, value), key);
  if (auto idx = index_of(hash)) {
    entries_[*idx].second = std::move(value);
    return;
  }
  charged += charge_bytes(2 * sizeof(Value) + 64 + hash.size());
  index_.emplace(std::move(hash), entries_.size());
  entries_.emplace_back(key, std::move(value));
}

std::uint32_t nesting_above(const Value& value) {
  std::uint32_t depth = value.depth() + 1;
  if (depth > kMaxNesting) fail("LimitError", "lists or dicts are nested too deep");
  return depth;
}

Value Object::call(Args&) { fail("TypeError", fmt::format("'{}' object is not callable", type_name())); }

const char* python_type(const Value& value) {
  static constexpr const char* kLists[] = {"list",      "tuple",       "generator", "range",
                                           "dict_keys", "dict_values", "dict_items"};
  switch (value.type()) {
    case Type::kUndefined:
      return "Undefined";
    case Type::kNone:
      return "NoneType";
    case Type::kBool:
      return "bool";
    case Type::kInt:
      return "int";
    case Type::kFloat:
      return "float";
    case Type::kString:
      return "str";
    case Type::kList:
      return kLists[static_cast<std::size_t>(value.list_data().kind)];
    case Type::kDict:
      return "dict";
    case Type::kObject:
      return "object";
  }
  return "";
}

std::string type_name(const Value& value) {
  return value.is(Type::kObject) ? value.object().type_name() : python_type(value);
}

bool truthy(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
    case Type::kNone:
      return false;
    case Type::kBool:
    case Type::kInt:
      return value.as_int() != 0;
    case Type::kFloat:
      return value.as_double() != 0;
    case Type::kString:
      return !value.str().empty();
    case Type::kList:
      return value.list_data().kind == ListKind::kGenerator || !value.items().empty();
    case Type::kDict:
      return value.dict().size() != 0;
    case Type::kObject:
      return true;
  }
  return false;
}

bool equal(const Value& a, const Value& b) {
  charge_steps(1);
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.as_int() == b.as_int();
    return a.as_double() == b.as_double();
  }
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Type::kString:
      return a.str() == b.str();
    case Type::kList:
      return a.identity() == b.identity() || equal_lists(a, b);
    case Type::kDict:
      return equal_dicts(a.dict(), b.dict());
    case Type::kObject:
      return a.identity() == b.identity();
    default:
      return true;  // None and undefined
  }
}

bool less(const Value& a, const Value& b, const char* op) {
  charge_steps(1);
  a.require_defined();
  b.require_defined();
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.as_int() < b.as_int();
    return a.as_double() < b.as_double();
  }
  if (a.is_string() && b.is_string()) return a.str() < b.str();
  if (a.is_list() && b.is_list() && a.list_data().kind == b.list_data().kind &&
      a.list_data().kind <= ListKind::kTuple)
    return less_lists(a, b, op);
  fail("TypeError",
       fmt::format("'{}' not supported between instances of '{}' and '{}'", op, type_name(a), type_name(b)));
}

bool greater(const Value& a, const Value& b, const char* op) {
  if (a.is_number() && b.is_number()) return less(b, a);
  if (a.is_string() && b.is_string()) return less(b, a);
  if (a.is_list() && b.is_list()) return less(b, a, op);
  return less(a, b, op);  // fails, with the sides in their order
}

// The shortest digits that read back as d, laid out as Python does: 1e16 and above, and below 1e-4, with
// exponent.
std::string float_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  char buffer[32];
  char* end = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific).ptr;
  std::string_view shortest(buffer, static_cast<std::size_t>(end - buffer));
  std::size_t e = shortest.find('e');
  int exponent = std::stoi(std::string(shortest.substr(e + 1)));
  if (exponent < -4 || exponent >= 16) return std::string(shortest);
  end = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::fixed).ptr;
  std::string fixed(buffer, end);
  return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
}

void append_text(Text& out, const Value& value) {
  if (value.is_string())
    out.append(value.text());
  else if (!value.is_undefined())
    append_repr(out, value);
}

Text to_text(const Value& value) {
  if (value.is_string()) return value.text();
  Text out;
  append_text(out, value);
  return out;
}

}  // namespace fastgen::jinja
