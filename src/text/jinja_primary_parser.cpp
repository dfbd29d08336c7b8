// The part of the expression parser below the operators: literals, names, and what may follow them.
#include "text/jinja_expr_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace fastgen::jinja {

ExprPtr ExprParser::parse_primary() {
  if (at(TokenKind::kName)) {
    std::string name = take_name();
    if (name == "true" || name == "True") return make_const(Value::boolean(true));
    if (name == "false" || name == "False") return make_const(Value::boolean(false));
    if (name == "none" || name == "None") return make_const(Value());
    return make_name(name);
  }
  if (at(TokenKind::kString)) return parse_string();
  if (at(TokenKind::kInteger) || at(TokenKind::kFloat)) return parse_number();
  if (at_op("[")) return parse_list();
  if (at_op("{")) return parse_dict();
  if (!skip_op("(")) unexpected();
  ExprPtr node = parse_tuple(true, "", true);
  expect_op(")");
  return node;
}

ExprPtr ExprParser::parse_string() {
  std::string text;
  for (; at(TokenKind::kString); next()) text += now().text;
  return make_const(Value::string(Text::from_template(std::move(text))));
}

ExprPtr ExprParser::parse_number() {
  const std::string& digits = now().text;
  if (at(TokenKind::kFloat)) {
    ExprPtr node = make_const(Value::real(std::strtod(digits.c_str(), nullptr)));
    next();
    return node;
  }
  char mark = digits.size() > 1 ? digits[1] | 0x20 : '\0';
  int base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
  std::string_view significant = std::string_view(digits).substr(base == 10 ? 0 : 2);
  std::int64_t value = 0;
  auto result = std::from_chars(significant.data(), significant.data() + significant.size(), value, base);
  if (result.ec != std::errc()) error(fmt::format("the integer {} has more than 64 bits", digits));
  ExprPtr node = make_const(Value::integer(value, true));
  next();
  return node;
}

bool ExprParser::at_tuple_end(std::string_view stop) const {
  return at(TokenKind::kOutputEnd) || at(TokenKind::kBlockEnd) || at_op(")") ||
         (!stop.empty() && at_name(stop));
}

ExprPtr ExprParser::parse_tuple(bool with_condition, std::string_view stop, bool in_brackets) {
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  for (;;) {
    if (!items.empty()) expect_op(",");
    if (at_tuple_end(stop)) break;
    items.push_back(parse_expression(with_condition));
    if (!at_op(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  if (items.empty() && !in_brackets) error(fmt::format("Expected an expression, got '{}'", describe(now())));
  return make(ExprKind::kTuple, std::move(items));
}

ExprPtr ExprParser::parse_list() {
  expect_op("[");
  std::vector<ExprPtr> items;
  while (!at_op("]")) {
    if (!items.empty()) expect_op(",");
    if (at_op("]")) break;
    items.push_back(parse_expression());
  }
  expect_op("]");
  return make(ExprKind::kList, std::move(items));
}

ExprPtr ExprParser::parse_dict() {
  expect_op("{");
  std::vector<ExprPtr> items;
  while (!at_op("}")) {
    if (!items.empty()) expect_op(",");
    if (at_op("}")) break;
    items.push_back(parse_expression());
    expect_op(":");
    items.push_back(parse_expression());
  }
  expect_op("}");
  return make(ExprKind::kDict, std::move(items));
}

ExprPtr ExprParser::parse_postfix(ExprPtr node) {
  for (;;) {
    if (at_op(".") || at_op("["))
      node = parse_subscript(std::move(node));
    else if (at_op("("))
      node = parse_call(std::move(node));
    else
      return node;
  }
}

ExprPtr ExprParser::parse_filters(ExprPtr node) {
  for (;;) {
    if (at_op("|"))
      node = parse_filter(std::move(node), false);
    else if (at_name("is"))
      node = parse_test(std::move(node));
    else if (at_op("("))
      node = parse_call(std::move(node));
    else
      return node;
  }
}

ExprPtr ExprParser::parse_subscript(ExprPtr node) {
  if (skip_op(".")) {
    bool is_name = at(TokenKind::kName);
    if (!is_name && !at(TokenKind::kInteger)) error("expected name or number");
    ExprPtr result;
    if (is_name) {
      result = make(ExprKind::kAttribute, only(std::move(node)));
      result->value = Value::string(Text::from_template(now().text));
      next();
    } else {
      ExprPtr index = parse_number();
      result = make(ExprKind::kItem, pair_of(std::move(node), std::move(index)));
    }
    return result;
  }
  expect_op("[");
  std::vector<ExprPtr> kids = only(std::move(node));
  bool is_slice = false;
  while (!at_op("]") && kids.size() < 5) {
    bool is_empty = at_op(":");
    kids.push_back(is_empty ? nullptr : parse_expression());
    if (!at_op(":")) break;
    is_slice = true;
    next();
    if (at_op("]")) kids.push_back(nullptr);
  }
  if (is_slice && kids.size() > 4 && kids.back() == nullptr) kids.pop_back();
  if (kids.size() == 1 || kids.size() > 4) error("expected subscript expression");
  expect_op("]");
  if (is_slice) kids.resize(4);
  return make(is_slice ? ExprKind::kSlice : ExprKind::kItem, std::move(kids));
}

std::unique_ptr<CallArgs> ExprParser::parse_args() {
  expect_op("(");
  auto args = std::make_unique<CallArgs>();
  bool first = true;
  while (!at_op(")")) {
    if (!first) expect_op(",");
    first = false;
    if (at_op(")")) break;
    bool is_named = at(TokenKind::kName) && ahead().kind == TokenKind::kOperator && ahead().text == "=";
    if (skip_op("**")) {
      if (args->star_star) error("invalid syntax for function call expression");
      args->star_star = parse_expression();
    } else if (skip_op("*")) {
      if (args->star || args->star_star) error("invalid syntax for function call expression");
      args->star = parse_expression();
    } else if (is_named) {
      if (args->star_star) error("invalid syntax for function call expression");
      std::string name = take_name();
      next();
      args->named.emplace_back(name, parse_expression());
    } else {
      if (args->star || args->star_star || !args->named.empty())
        error("invalid syntax for function call expression");
      args->positional.push_back(parse_expression());
    }
  }
  expect_op(")");
  return args;
}

ExprPtr ExprParser::parse_call(ExprPtr node) {
  ExprPtr call = make(ExprKind::kCall, only(std::move(node)));
  call->args = parse_args();
  return checked(std::move(call));
}

ExprPtr ExprParser::parse_filter(ExprPtr node, bool first_is_name) {
  while (at_op("|") || first_is_name) {
    if (!first_is_name) next();
    first_is_name = false;
    ExprPtr filter = make(ExprKind::kFilter, only(std::move(node)));
    std::string name = take_name();
    while (skip_op(".")) name += "." + take_name();
    filter->filter = find_filter(name);
    if (!filter->filter && soft_ == 0) error(fmt::format("No filter named '{}'.", name));
    filter->value = Value::string(std::move(name));
    filter->args = at_op("(") ? parse_args() : std::make_unique<CallArgs>();
    node = checked(std::move(filter));
  }
  return node;
}

ExprPtr ExprParser::parse_test(ExprPtr node) {
  expect_name("is");
  bool negated = skip_name("not");
  ExprPtr test = make(ExprKind::kTest, only(std::move(node)));
  std::string name = take_name();
  while (skip_op(".")) name += "." + take_name();
  test->test = find_test(name);
  if (!test->test && soft_ == 0) error(fmt::format("No test named '{}'.", name));
  test->value = Value::string(std::move(name));
  bool begins_argument = at(TokenKind::kName) || at(TokenKind::kString) || at(TokenKind::kInteger) ||
                         at(TokenKind::kFloat) || at_op("[") || at_op("{");
  if (at_op("(")) {
    test->args = parse_args();
  } else {
    test->args = std::make_unique<CallArgs>();
    if (begins_argument && !at_name("else") && !at_name("or") && !at_name("and")) {
      if (at_name("is")) error("You cannot chain multiple tests with is");
      test->args->positional.push_back(parse_postfix(parse_primary()));
    }
  }
  test = checked(std::move(test));
  return negated ? make(ExprKind::kNot, only(std::move(test))) : std::move(test);
}

ExprPtr ExprParser::parse_name_target() {
  static constexpr std::string_view kReserved[] = {"true", "True", "false", "False", "none", "None"};
  std::string name = take_name();
  if (std::find(std::begin(kReserved), std::end(kReserved), name) != std::end(kReserved))
    error(fmt::format("can't assign to '{}'", name));
  return make_name(name);
}

ExprPtr ExprParser::parse_target(bool with_namespace) {
  Nested nested(*this);
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  do {
    if (!items.empty() && (at_op("=") || at_op(")") || at_name("in"))) break;
    if (skip_op("(")) {
      items.push_back(parse_target(with_namespace));
      expect_op(")");
    } else if (with_namespace && ahead().kind == TokenKind::kOperator && ahead().text == ".") {
      ExprPtr node = make_name(take_name());
      next();
      node->kind = ExprKind::kNsRef;
      node->value = Value::string(Text::from_template(take_name()));
      items.push_back(std::move(node));
    } else {
      items.push_back(parse_name_target());
    }
    if (at_op(",")) is_tuple = true;
  } while (skip_op(","));
  return is_tuple ? make(ExprKind::kTuple, std::move(items)) : std::move(items[0]);
}

}  // namespace fastgen::jinja
