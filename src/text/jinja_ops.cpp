// Operators, and what iterates, by Python's rules.
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

}  // namespace

Value add(const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    Text out = a.text();
    out.append(b.text());
    return Value::string(std::move(out));
  }
  if (both_integral(a, b)) return exact(Exact::kAdd, a, b);
  if (both_numbers(a, b)) return Value::real(a.as_double() + b.as_double());
  if (a.is_sequence() && b.is_sequence() && a.list_data().kind == b.list_data().kind) return add_lists(a, b);
  b.require_defined();
  if (a.is_string() || a.is_sequence())
    fail("TypeError",
         fmt::format("can only concatenate {0} (not \"{1}\") to {0}", python_type(a), type_name(b)));
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
  const bool a_repeats = a.is_string() || a.is_sequence();
  const Value& row = a_repeats ? a : b;
  const Value& count = a_repeats ? b : a;
  if (!row.is_string() && !row.is_sequence()) unsupported("*", a, b);
  if (!count.is_integral()) {
    count.require_defined();
    fail("TypeError", fmt::format("can't multiply sequence by non-int of type '{}'", type_name(count)));
  }
  if (row.is_string()) return Value::string(repeated(row.text(), count.as_int()));
  return repeat_list(row, count.as_int());
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
