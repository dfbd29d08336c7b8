#include "text/jinja_expr_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace fastgen::jinja {

namespace {

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kEnd:
      return "end of template";
    case TokenKind::kBlockEnd:
      return "end of statement block";
    case TokenKind::kOutputEnd:
      return "end of print statement";
    case TokenKind::kData:
      return "template data / text";
    default:
      return token.text;
  }
}

}  // namespace

ExprParser::ExprParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
  for (const char* name : {"loop", "caller", "varargs", "kwargs"}) intern(name);
}

ExprParser::Nested::Nested(ExprParser& parser) : parser_(parser) {
  if (parser.depth_ == kMaxParseDepth) parser.error("the template is nested too deep");
  ++parser.depth_;
}

bool ExprParser::skip_op(std::string_view op) {
  if (!at_op(op)) return false;
  next();
  return true;
}

bool ExprParser::skip_name(std::string_view name) {
  if (!at_name(name)) return false;
  next();
  return true;
}

void ExprParser::unexpected() const {
  if (at(TokenKind::kEnd)) error("unexpected end of template");
  error(fmt::format("unexpected '{}'", describe(now())));
}

void ExprParser::expect_op(std::string_view op) {
  if (!skip_op(op)) error(fmt::format("expected token '{}', got '{}'", op, describe(now())));
}

void ExprParser::expect_name(std::string_view name) {
  if (!skip_name(name)) error(fmt::format("expected token '{}', got '{}'", name, describe(now())));
}

void ExprParser::expect(TokenKind kind) {
  if (!at(kind)) {
    Token wanted{kind, 0, ""};
    error(fmt::format("expected token '{}', got '{}'", describe(wanted), describe(now())));
  }
  next();
}

std::string ExprParser::take_name() {
  if (!at(TokenKind::kName)) error(fmt::format("expected token 'name', got '{}'", describe(now())));
  std::string name = now().text;
  next();
  return name;
}

NameId ExprParser::intern(const std::string& name) {
  auto [it, is_new] = ids_.emplace(name, static_cast<NameId>(template_.names.size()));
  if (is_new) template_.names.push_back(name);
  return it->second;
}

ExprPtr ExprParser::make(ExprKind kind, std::vector<ExprPtr> kids) const {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = now().line;
  node->kids = std::move(kids);
  return checked(std::move(node));
}

ExprPtr ExprParser::checked(ExprPtr node) const {
  auto grow = [&](const ExprPtr& kid) {
    if (kid) node->height = std::max(node->height, kid->height + 1);
  };
  for (const ExprPtr& kid : node->kids) grow(kid);
  if (node->args) {
    for (const ExprPtr& kid : node->args->positional) grow(kid);
    for (const auto& named : node->args->named) grow(named.second);
    grow(node->args->star);
    grow(node->args->star_star);
  }
  if (node->height > kMaxTreeHeight) error("an expression is too long");
  return node;
}

ExprPtr ExprParser::make_const(Value value) const {
  ExprPtr node = make(ExprKind::kConst);
  node->value = std::move(value);
  return node;
}

ExprPtr ExprParser::make_name(const std::string& name) {
  ExprPtr node = make(ExprKind::kName);
  node->name = intern(name);
  if (!macros_.empty()) {
    macros_.back()->uses_caller |= node->name == kCaller;
    macros_.back()->uses_varargs |= node->name == kVarargs;
    macros_.back()->uses_kwargs |= node->name == kKwargs;
  }
  return node;
}

ExprPtr ExprParser::parse_expression(bool with_condition) {
  Nested nested(*this);
  return with_condition ? parse_condition() : parse_or();
}

ExprPtr ExprParser::parse_condition() {
  ExprPtr node = parse_or();
  while (skip_name("if")) {
    std::vector<ExprPtr> kids;
    kids.push_back(std::move(node));
    kids.push_back(parse_or());
    ++soft_;
    kids.push_back(skip_name("else") ? parse_expression() : nullptr);
    --soft_;
    node = make(ExprKind::kCondition, std::move(kids));
  }
  return node;
}

namespace {

std::vector<ExprPtr> pair_of(ExprPtr a, ExprPtr b) {
  std::vector<ExprPtr> kids;
  kids.push_back(std::move(a));
  kids.push_back(std::move(b));
  return kids;
}

std::vector<ExprPtr> only(ExprPtr a) {
  std::vector<ExprPtr> kids;
  kids.push_back(std::move(a));
  return kids;
}

}  // namespace

ExprPtr ExprParser::parse_or() {
  ExprPtr left = parse_and();
  while (skip_name("or")) left = make(ExprKind::kOr, pair_of(std::move(left), parse_and()));
  return left;
}

ExprPtr ExprParser::parse_and() {
  ExprPtr left = parse_not();
  while (skip_name("and")) left = make(ExprKind::kAnd, pair_of(std::move(left), parse_not()));
  return left;
}

ExprPtr ExprParser::parse_not() {
  Nested nested(*this);
  if (skip_name("not")) return make(ExprKind::kNot, only(parse_not()));
  return parse_compare();
}

bool ExprParser::parse_compare_op(CompareOp& op) {
  static constexpr std::pair<std::string_view, CompareOp> kOps[] = {
      {"==", CompareOp::kEq}, {"!=", CompareOp::kNe}, {"<", CompareOp::kLt},
      {"<=", CompareOp::kLe}, {">", CompareOp::kGt},  {">=", CompareOp::kGe}};
  for (const auto& [text, value] : kOps) {
    if (!skip_op(text)) continue;
    op = value;
    return true;
  }
  bool negated = at_name("not") && ahead().kind == TokenKind::kName && ahead().text == "in";
  if (negated) next();
  if (!skip_name("in")) return false;
  op = negated ? CompareOp::kNotIn : CompareOp::kIn;
  return true;
}

ExprPtr ExprParser::parse_compare() {
  ExprPtr first = parse_sum();
  CompareOp op{};
  if (!parse_compare_op(op)) return first;
  std::vector<ExprPtr> kids = only(std::move(first));
  std::vector<CompareOp> ops;
  do {
    ops.push_back(op);
    kids.push_back(parse_sum());
  } while (parse_compare_op(op));
  ExprPtr node = make(ExprKind::kCompare, std::move(kids));
  node->compare_ops = std::move(ops);
  return node;
}

ExprPtr ExprParser::parse_sum() {
  ExprPtr left = parse_concat();
  while (at_op("+") || at_op("-")) {
    BinaryOp op = at_op("+") ? BinaryOp::kAdd : BinaryOp::kSub;
    next();
    left = make(ExprKind::kBinary, pair_of(std::move(left), parse_concat()));
    left->op = op;
  }
  return left;
}

ExprPtr ExprParser::parse_concat() {
  std::vector<ExprPtr> parts = only(parse_product());
  while (skip_op("~")) parts.push_back(parse_product());
  return parts.size() == 1 ? std::move(parts[0]) : make(ExprKind::kConcat, std::move(parts));
}

ExprPtr ExprParser::parse_product() {
  static constexpr std::pair<std::string_view, BinaryOp> kOps[] = {
      {"*", BinaryOp::kMul}, {"/", BinaryOp::kDiv}, {"//", BinaryOp::kFloorDiv}, {"%", BinaryOp::kMod}};
  ExprPtr left = parse_power();
  for (;;) {
    auto it = std::find_if(std::begin(kOps), std::end(kOps), [&](const auto& op) { return at_op(op.first); });
    if (it == std::end(kOps)) return left;
    next();
    left = make(ExprKind::kBinary, pair_of(std::move(left), parse_power()));
    left->op = it->second;
  }
}

ExprPtr ExprParser::parse_power() {
  ExprPtr left = parse_unary();
  while (skip_op("**")) {
    left = make(ExprKind::kBinary, pair_of(std::move(left), parse_unary()));
    left->op = BinaryOp::kPow;
  }
  return left;
}

ExprPtr ExprParser::parse_unary(bool with_filters) {
  Nested nested(*this);
  ExprPtr node;
  if (skip_op("-"))
    node = make(ExprKind::kNegative, only(parse_unary(false)));
  else if (skip_op("+"))
    node = make(ExprKind::kPositive, only(parse_unary(false)));
  else
    node = parse_primary();
  node = parse_postfix(std::move(node));
  return with_filters ? parse_filters(std::move(node)) : std::move(node);
}

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
