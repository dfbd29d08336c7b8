// Operators, attributes and items, by Python's rules.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja_builtins.h"

namespace fastgen::jinja {

namespace {

[[noreturn]] void unsupported(const char* op, const Value& a, const Value& b) {
  a.require_defined();
  b.require_defined();
  fail("TypeError",
       fmt::format("unsupported operand type(s) for {}: '{}' and '{}'", op, type_name(a), type_name(b)));
}

[[noreturn]] void overflow() { fail("OverflowError", "an integer grows beyond 64 bits"); }

// The digits of a + b are the template's when those of a and b are.
Value integer_of(std::int64_t i, const Value& a, const Value& b) {
  return Value::integer(i, a.is_trusted_number() && b.is_trusted_number());
}

enum class Exact { kAdd, kSub, kMul };

Value exact(Exact op, const Value& a, const Value& b) {
  std::int64_t result = 0;
  bool too_big = op == Exact::kAdd   ? __builtin_add_overflow(a.as_int(), b.as_int(), &result)
                 : op == Exact::kSub ? __builtin_sub_overflow(a.as_int(), b.as_int(), &result)
                                     : __builtin_mul_overflow(a.as_int(), b.as_int(), &result);
  if (too_big) overflow();
  return integer_of(result, a, b);
}

bool both_integral(const Value& a, const Value& b) { return a.is_integral() && b.is_integral(); }
bool both_numbers(const Value& a, const Value& b) { return a.is_number() && b.is_number(); }
bool is_sequence(const Value& v) { return v.is_list() && v.list_data().kind <= ListKind::kTuple; }

Value add_lists(const Value& a, const Value& b) {
  check_text_size((a.items().size() + b.items().size()) * sizeof(Value));
  std::vector<Value> items = a.items();
  items.insert(items.end(), b.items().begin(), b.items().end());
  return Value::list(std::move(items), a.list_data().kind);
}

Value repeat_list(const Value& list, std::int64_t count) {
  std::size_t size = list.items().size();
  auto times = static_cast<std::size_t>(std::max<std::int64_t>(count, 0));
  if (size != 0 && times > kMaxText / sizeof(Value) / size) fail("MemoryError", "a list grows too long");
  std::vector<Value> items;
  items.reserve(size * times);
  if (size != 0)
    for (std::size_t i = 0; i < times; ++i)
      items.insert(items.end(), list.items().begin(), list.items().end());
  return Value::list(std::move(items), list.list_data().kind);
}

std::string object_type_repr(const Value& value) {
  if (value.is_none()) return "None";
  return type_name(value) + " object";
}

Value missing(const Value& object, const Value& key) {
  if (!key.is_string()) {
    Text repr;
    append_repr(repr, key);
    return Value::undefined(fmt::format("{} has no element {}", object_type_repr(object), repr.bytes));
  }
  return Value::undefined(fmt::format("'{}' has no attribute '{}'", object_type_repr(object), key.str()));
}

// A method taken from its object and not called yet: value.upper
struct BoundMethod : Object {
  Value self;
  Method method = nullptr;
  std::string name;
  std::string type_name() const override { return "builtin_function_or_method"; }
  bool is_callable() const override { return true; }
  Value call(Args& args) override { return method(self, args); }
};

// What getattr() finds: methods, and the attributes of objects. The sandbox hides what begins with "_" and
// whatever changes a list or dict.
std::optional<Value> own_attribute(const Value& object, const std::string& name) {
  static constexpr std::string_view kListMutators[] = {"append", "clear", "pop",    "reverse",
                                                       "insert", "sort",  "extend", "remove"};
  static constexpr std::string_view kDictMutators[] = {"clear", "pop", "popitem", "setdefault", "update"};
  auto is_mutator = [&](const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  bool is_list = object.is_list() && object.list_data().kind == ListKind::kList;
  bool unsafe = name.starts_with("__") || (is_list && is_mutator(kListMutators)) ||
                (object.is_dict() && is_mutator(kDictMutators));
  if (unsafe) {
    std::string message =
        fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(object));
    return Value::undefined(message, "SecurityError");
  }
  if (object.is(Type::kObject)) return object.object().attribute(name);
  Method method = find_method(object, name);
  if (!method) return std::nullopt;
  auto bound = std::make_shared<BoundMethod>();
  bound->self = object;
  bound->depth = nesting_above(object);
  bound->method = method;
  bound->name = name;
  return Value::object(bound);
}

// Index into `size` items from a Python index; nullopt when out of range.
std::optional<std::size_t> position(std::int64_t index, std::size_t size) {
  auto count = static_cast<std::int64_t>(size);
  if (index < -count || index >= count) return std::nullopt;
  return static_cast<std::size_t>(index < 0 ? index + count : index);
}

std::optional<Value> character_at(const Text& text, std::int64_t index) {
  charge_steps(text.size() / 256);
  auto at = position(index, code_points(text.bytes));
  if (!at) return std::nullopt;
  std::size_t begin = byte_offset(text.bytes, *at);
  std::size_t end = begin;
  next_code_point(text.bytes, end);
  return Value::string(text.slice(begin, end));
}

// object[key] alone, without the fallback to attributes.
std::optional<Value> own_item(const Value& object, const Value& key) {
  if (object.is_dict()) {
    if (key.is_list() && key.list_data().kind != ListKind::kTuple) return std::nullopt;
    if (key.is_dict()) return std::nullopt;
    const Value* found = object.dict().find(key);
    return found ? std::optional(*found) : std::nullopt;
  }
  if (!key.is_integral()) return std::nullopt;
  if (object.is_string()) return character_at(object.text(), key.as_int());
  if (!object.is_list() || (object.list_data().kind != ListKind::kRange && !is_sequence(object)))
    return std::nullopt;
  auto at = position(key.as_int(), object.items().size());
  return at ? std::optional(object.items()[*at]) : std::nullopt;
}

struct SliceBounds {
  std::int64_t start;
  std::int64_t stop;
  std::int64_t step;
};

std::int64_t clamp_bound(const Value& bound, std::int64_t size, std::int64_t otherwise, std::int64_t step) {
  if (bound.is_none()) return otherwise;
  if (!bound.is_integral())
    fail("TypeError", "slice indices must be integers or None or have an __index__ method");
  std::int64_t i = bound.as_int();
  if (i < 0) i = i < -size ? -1 : i + size;
  std::int64_t low = step > 0 ? 0 : -1;
  return std::clamp(i, low, step > 0 ? size : size - 1);
}

SliceBounds slice_bounds(std::int64_t size, const Value& start, const Value& stop, const Value& step_value) {
  if (!step_value.is_none() && !step_value.is_integral())
    fail("TypeError", "slice indices must be integers or None or have an __index__ method");
  std::int64_t step = step_value.is_none() ? 1 : step_value.as_int();
  if (step == 0) fail("ValueError", "slice step cannot be zero");
  step = std::clamp<std::int64_t>(step, -size - 1, size + 1);
  return {clamp_bound(start, size, step > 0 ? 0 : size - 1, step),
          clamp_bound(stop, size, step > 0 ? size : -1, step), step};
}

bool goes_on(const SliceBounds& b, std::int64_t i) { return b.step > 0 ? i < b.stop : i > b.stop; }

Value slice_string(const Text& text, const Value& start, const Value& stop, const Value& step) {
  charge_steps(text.size() / 256);
  SliceBounds bounds = slice_bounds(static_cast<std::int64_t>(code_points(text.bytes)), start, stop, step);
  if (bounds.step == 1) {
    std::size_t begin = byte_offset(text.bytes, static_cast<std::size_t>(bounds.start));
    std::size_t end = byte_offset(text.bytes, static_cast<std::size_t>(bounds.stop));
    return Value::string(text.slice(begin, std::max(begin, end)));
  }
  charge_steps(text.size());
  std::vector<std::size_t> begins;
  for (std::size_t pos = 0; pos < text.size(); next_code_point(text.bytes, pos)) begins.push_back(pos);
  begins.push_back(text.size());
  Text out;
  for (std::int64_t i = bounds.start; goes_on(bounds, i); i += bounds.step)
    out.append(text, begins[static_cast<std::size_t>(i)], begins[static_cast<std::size_t>(i) + 1]);
  return Value::string(std::move(out));
}

}  // namespace

Value add(const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    Text out = a.text();
    out.append(b.text());
    return Value::string(std::move(out));
  }
  if (both_integral(a, b)) return exact(Exact::kAdd, a, b);
  if (both_numbers(a, b)) return Value::real(a.as_double() + b.as_double());
  if (is_sequence(a) && is_sequence(b) && a.list_data().kind == b.list_data().kind) return add_lists(a, b);
  b.require_defined();
  if (a.is_string() || is_sequence(a)) {
    std::string type = python_type(a);
    const char* quote = a.is_string() || is_sequence(a) ? "\"" : "'";
    fail("TypeError",
         fmt::format("can only concatenate {0} (not {1}{2}{1}) to {0}", type, quote, type_name(b)));
  }
  unsupported("+", a, b);
}

Value subtract(const Value& a, const Value& b) {
  if (both_integral(a, b)) return exact(Exact::kSub, a, b);
  if (both_numbers(a, b)) return Value::real(a.as_double() - b.as_double());
  unsupported("-", a, b);
}

Value multiply(const Value& a, const Value& b) {
  if (both_integral(a, b)) return exact(Exact::kMul, a, b);
  if (both_numbers(a, b)) return Value::real(a.as_double() * b.as_double());
  const Value& row = b.is_integral() ? a : b;
  const Value& count = b.is_integral() ? b : a;
  if (count.is_integral() && row.is_string()) return Value::string(repeated(row.text(), count.as_int()));
  if (count.is_integral() && is_sequence(row)) return repeat_list(row, count.as_int());
  if ((row.is_string() || is_sequence(row)) && !count.is_undefined())
    fail("TypeError",
         fmt::format("can't multiply sequence by non-int of type '{}'", type_name(b.is_integral() ? b : b)));
  unsupported("*", a, b);
}

Value divide(const Value& a, const Value& b) {
  if (!both_numbers(a, b)) unsupported("/", a, b);
  if (b.as_double() == 0)
    fail("ZeroDivisionError", both_integral(a, b) ? "division by zero" : "float division by zero");
  return Value::real(a.as_double() / b.as_double());
}

Value floor_divide(const Value& a, const Value& b) {
  if (!both_numbers(a, b)) unsupported("//", a, b);
  bool integral = both_integral(a, b);
  if (b.as_double() == 0)
    fail("ZeroDivisionError",
         integral ? "integer division or modulo by zero" : "float floor division by zero");
  if (!integral) return Value::real(std::floor(a.as_double() / b.as_double()));
  if (a.as_int() == INT64_MIN && b.as_int() == -1) overflow();
  std::int64_t quotient = a.as_int() / b.as_int();
  bool rounds_up = a.as_int() % b.as_int() != 0 && (a.as_int() < 0) != (b.as_int() < 0);
  return integer_of(quotient - rounds_up, a, b);
}

Value modulo(const Value& a, const Value& b) {
  if (a.is_string()) return Value::string(format_percent(a.text(), b));
  if (!both_numbers(a, b)) unsupported("%", a, b);
  bool integral = both_integral(a, b);
  if (b.as_double() == 0) fail("ZeroDivisionError", integral ? "integer modulo by zero" : "float modulo");
  if (integral) {
    std::int64_t rest = b.as_int() == -1 ? 0 : a.as_int() % b.as_int();
    if (rest != 0 && (rest < 0) != (b.as_int() < 0)) rest += b.as_int();
    return integer_of(rest, a, b);
  }
  double rest = std::fmod(a.as_double(), b.as_double());
  if (rest != 0 && (rest < 0) != (b.as_double() < 0)) rest += b.as_double();
  return Value::real(rest == 0 ? std::copysign(0.0, b.as_double()) : rest);
}

Value power(const Value& a, const Value& b) {
  if (!both_numbers(a, b)) unsupported("** or pow()", a, b);
  if (a.as_double() == 0 && b.as_double() < 0)
    fail("ZeroDivisionError", "0.0 cannot be raised to a negative power");
  if (!both_integral(a, b) || b.as_int() < 0) {
    double result = std::pow(a.as_double(), b.as_double());
    if (std::isnan(result)) fail("TypeError", "a complex number came out of **");
    if (std::isinf(result)) fail("OverflowError", "(34, 'Numerical result out of range')");
    return Value::real(result);
  }
  std::int64_t result = 1;
  std::int64_t base = a.as_int();
  for (std::int64_t left = b.as_int(); left > 0; left >>= 1) {
    if ((left & 1) && __builtin_mul_overflow(result, base, &result)) overflow();
    if (left > 1 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return integer_of(result, a, b);
}

Value negate(const Value& a) {
  if (a.is_integral()) return exact(Exact::kSub, Value::integer(0, true), a);
  if (a.is_number()) return Value::real(-a.as_double());
  a.require_defined();
  fail("TypeError", fmt::format("bad operand type for unary -: '{}'", type_name(a)));
}

bool contains(const Value& container, const Value& item) {
  if (container.is_undefined()) {
    if (container.undefined_data().kind != std::string_view("UndefinedError")) container.require_defined();
    return false;
  }
  if (container.is_string()) {
    if (!item.is_string()) {
      item.require_defined();
      fail("TypeError",
           fmt::format("'in <string>' requires string as left operand, not {}", type_name(item)));
    }
    charge_steps(container.str().size() / 256);
    return container.str().find(item.str()) != std::string::npos;
  }
  if (container.is_dict()) return container.dict().find(item) != nullptr;
  if (!container.is_list())
    fail("TypeError", fmt::format("argument of type '{}' is not iterable", type_name(container)));
  for (const Value& candidate : iterate(container))
    if (equal(candidate, item)) return true;
  return false;
}

std::vector<Value> characters(const Text& text) {
  std::vector<Value> out;
  for (std::size_t pos = 0; pos < text.size();) {
    std::size_t begin = pos;
    next_code_point(text.bytes, pos);
    out.push_back(Value::string(text.slice(begin, pos)));
  }
  return out;
}

std::vector<Value> iterate(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
      if (value.undefined_data().kind != std::string_view("UndefinedError")) value.require_defined();
      return {};
    case Type::kString:
      return characters(value.text());
    case Type::kDict: {
      charge_steps(value.dict().size());
      std::vector<Value> keys;
      for (const auto& entry : value.dict().entries()) keys.push_back(entry.first);
      return keys;
    }
    case Type::kList: {
      const ListData& list = value.list_data();
      charge_steps(list.items.size());
      if (list.kind != ListKind::kGenerator) return list.items;
      auto from = list.items.begin() + static_cast<std::ptrdiff_t>(list.consumed);
      list.consumed = list.items.size();
      return {from, list.items.end()};
    }
    default:
      fail("TypeError", fmt::format("'{}' object is not iterable", type_name(value)));
  }
}

std::size_t length(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_string()) {
    charge_steps(value.str().size() / 256);
    return code_points(value.str());
  }
  if (value.is_dict()) return value.dict().size();
  if (value.is_list() && value.list_data().kind != ListKind::kGenerator) return value.items().size();
  fail("TypeError", fmt::format("object of type '{}' has no len()", type_name(value)));
}

Value get_attribute(const Value& object, const Value& name) {
  object.require_defined();
  if (auto found = own_attribute(object, name.str())) return *found;
  if (auto found = own_item(object, name)) return *found;
  return missing(object, name);
}

Value get_item(const Value& object, const Value& key) {
  object.require_defined();
  if (auto found = own_item(object, key)) return *found;
  if (key.is_string())
    if (auto found = own_attribute(object, key.str())) return *found;
  return missing(object, key);
}

Value get_path(const Value& object, const Value& path, const Value* otherwise) {
  if (!path.is_string()) return get_item(object, path);
  Value current = object;
  std::string_view rest = path.str();
  for (;;) {
    std::size_t dot = rest.find('.');
    std::string part(rest.substr(0, dot));
    bool is_index = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == part.npos;
    current = get_item(current, is_index ? Value::integer(std::stoll(part)) : Value::string(part));
    if (current.is_undefined() && otherwise && !otherwise->is_none()) current = *otherwise;
    if (dot == rest.npos) return current;
    rest.remove_prefix(dot + 1);
  }
}

Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step) {
  object.require_defined();
  if (object.is_string()) return slice_string(object.text(), start, stop, step);
  if (!object.is_list() || (object.list_data().kind != ListKind::kRange && !is_sequence(object)))
    return Value::undefined(fmt::format("{} has no element slice(...)", object_type_repr(object)));
  SliceBounds bounds = slice_bounds(static_cast<std::int64_t>(object.items().size()), start, stop, step);
  std::vector<Value> out;
  for (std::int64_t i = bounds.start; goes_on(bounds, i); i += bounds.step)
    out.push_back(object.items()[static_cast<std::size_t>(i)]);
  return Value::list(std::move(out), object.list_data().kind);
}

Value call(const Value& callee, Args& args) {
  callee.require_defined();
  if (!callee.is(Type::kObject))
    fail("TypeError", fmt::format("'{}' object is not callable", type_name(callee)));
  return callee.object().call(args);
}

Text repeated(const Text& text, std::int64_t count) {
  if (count <= 0 || text.size() == 0) return {};
  if (static_cast<std::size_t>(count) > kMaxText / text.size()) check_text_size(kMaxText + 1);
  charge_steps(static_cast<std::size_t>(count) * text.size() / 256 + static_cast<std::size_t>(count));
  Text out;
  for (std::int64_t i = 0; i < count; ++i) out.append(text);
  return out;
}

Value joined(const std::vector<Value>& items, const Text& separator, bool only_strings) {
  Text out;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (only_strings && !items[i].is_string()) {
      items[i].require_defined();
      fail("TypeError",
           fmt::format("sequence item {}: expected str instance, {} found", i, type_name(items[i])));
    }
    if (i) out.append(separator);
    append_text(out, items[i]);
  }
  return Value::string(std::move(out));
}

}  // namespace fastgen::jinja
