// Tests: what may stand behind `is`.
#include <fmt/format.h>

#include <map>

#include "text/jinja_builtins.h"

namespace fastgen::jinja {

namespace {

const Value& operand(const Args& args, const char* name) {
  auto bound = bind(args, name, {"other"});
  if (!bound[0]) fail("TypeError", fmt::format("test_{}() missing 1 required positional argument", name));
  return *bound[0];
}

Value remainder_of(const Value& input, std::int64_t by) { return modulo(input, Value::integer(by)); }
bool is_zero(const Value& value) { return value.is_number() && value.as_double() == 0; }

bool is_iterable(const Value& v, Args&) {
  return v.is_undefined() || v.is_string() || v.is_list() || v.is_dict();
}

// What has a length and items by index.
bool is_sequence(const Value& v, Args&) {
  if (v.is_list()) return v.list_data().kind <= ListKind::kTuple || v.list_data().kind == ListKind::kRange;
  return v.is_undefined() || v.is_string() || v.is_dict();
}

template <const char* const& method>
bool by_method(const Value& v, Args&) {
  Args none;
  return find_string_method(method)(v.is_string() ? v : Value::string(to_text(v)), none).as_bool();
}
constexpr const char* kIsLower = "islower";
constexpr const char* kIsUpper = "isupper";

bool same(const Value& v, Args& args) {
  const Value& other = operand(args, "sameas");
  if (v.type() != other.type()) return false;
  if (v.is_list() || v.is_dict() || v.is(Type::kObject)) return v.identity() == other.identity();
  return equal(v, other);
}

}  // namespace

Test find_test(std::string_view name) {
  static const std::map<std::string_view, Test> kTests = {
      {"defined", [](const Value& v, Args&) { return !v.is_undefined(); }},
      {"undefined", [](const Value& v, Args&) { return v.is_undefined(); }},
      {"none", [](const Value& v, Args&) { return v.is_none(); }},
      {"boolean", [](const Value& v, Args&) { return v.is(Type::kBool); }},
      {"true", [](const Value& v, Args&) { return v.is(Type::kBool) && v.as_bool(); }},
      {"false", [](const Value& v, Args&) { return v.is(Type::kBool) && !v.as_bool(); }},
      {"integer", [](const Value& v, Args&) { return v.is(Type::kInt); }},
      {"float", [](const Value& v, Args&) { return v.is(Type::kFloat); }},
      {"number", [](const Value& v, Args&) { return v.is_number(); }},
      {"string", [](const Value& v, Args&) { return v.is_string(); }},
      {"mapping", [](const Value& v, Args&) { return v.is_dict(); }},
      {"iterable", is_iterable},
      {"sequence", is_sequence},
      {"callable",
       [](const Value& v, Args&) {
         return v.is_undefined() || (v.is(Type::kObject) && v.object().is_callable());
       }},
      {"sameas", same},
      {"lower", by_method<kIsLower>},
      {"upper", by_method<kIsUpper>},
      {"escaped", [](const Value&, Args&) { return false; }},
      {"odd", [](const Value& v, Args&) { return equal(remainder_of(v, 2), Value::integer(1)); }},
      {"even", [](const Value& v, Args&) { return is_zero(remainder_of(v, 2)); }},
      {"divisibleby",
       [](const Value& v, Args& args) { return is_zero(modulo(v, operand(args, "divisibleby"))); }},
      {"in", [](const Value& v, Args& args) { return contains(operand(args, "in"), v); }},
      {"eq", [](const Value& v, Args& args) { return equal(v, operand(args, "eq")); }},
      {"ne", [](const Value& v, Args& args) { return !equal(v, operand(args, "ne")); }},
      {"lt", [](const Value& v, Args& args) { return less(v, operand(args, "lt")); }},
      {"gt", [](const Value& v, Args& args) { return greater(v, operand(args, "gt")); }},
      {"le", [](const Value& v,
                Args& args) { return less(v, operand(args, "le"), "<=") || equal(v, args.positional[0]); }},
      {"ge",
       [](const Value& v, Args& args) {
         return greater(v, operand(args, "ge"), ">=") || equal(v, args.positional[0]);
       }},
      {"filter", [](const Value& v, Args&) { return v.is_string() && find_filter(v.str()); }},
      {"test", [](const Value& v, Args&) { return v.is_string() && find_test(v.str()); }}};
  static const std::map<std::string_view, std::string_view> kAliases = {
      {"==", "eq"}, {"equalto", "eq"}, {"!=", "ne"},          {"<", "lt"}, {"lessthan", "lt"},
      {"<=", "le"}, {">", "gt"},       {"greaterthan", "gt"}, {">=", "ge"}};
  if (auto alias = kAliases.find(name); alias != kAliases.end()) name = alias->second;
  auto it = kTests.find(name);
  return it == kTests.end() ? nullptr : it->second;
}

}  // namespace fastgen::jinja
