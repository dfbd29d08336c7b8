#include "text/jinja_expr_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace fastgen::jinja {

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

}  // namespace fastgen::jinja
