// The expressions of the grammar; statements are built on it (jinja_parser.cpp).
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace fastgen::jinja {

class ExprParser {
 public:
  explicit ExprParser(std::vector<Token> tokens);

 protected:
  // One level of nesting of the source; fails where there are too many.
  class Nested {
   public:
    explicit Nested(ExprParser& parser);
    ~Nested() { --parser_.depth_; }

   private:
    ExprParser& parser_;
  };

  ExprPtr parse_expression(bool with_condition = true);
  // An expression, or a tuple without brackets. `stop` is a name that ends it ("recursive").
  ExprPtr parse_tuple(bool with_condition = true, std::string_view stop = "", bool in_brackets = false);
  ExprPtr parse_target(bool with_namespace);               // a, (a, b), ns.x
  ExprPtr parse_name_target();                             // one name
  ExprPtr parse_postfix(ExprPtr node);                     // .a [b] (c)
  ExprPtr parse_filters(ExprPtr node);                     // | f, is t, (c)
  ExprPtr parse_filter(ExprPtr node, bool first_is_name);  // f | g ...
  ExprPtr parse_unary(bool with_filters = true);

  const Token& now() const { return tokens_[idx_]; }
  const Token& ahead() const { return tokens_[std::min(idx_ + 1, tokens_.size() - 1)]; }
  bool at(TokenKind kind) const { return now().kind == kind; }
  bool at_op(std::string_view op) const { return at(TokenKind::kOperator) && now().text == op; }
  bool at_name(std::string_view name) const { return at(TokenKind::kName) && now().text == name; }
  bool skip_op(std::string_view op);
  bool skip_name(std::string_view name);
  void expect_op(std::string_view op);
  void expect_name(std::string_view name);
  void expect(TokenKind kind);
  std::string take_name();
  void next() {
    if (idx_ + 1 < tokens_.size()) ++idx_;
  }
  [[noreturn]] void error(const std::string& message) const { throw SyntaxError{now().line, message}; }
  [[noreturn]] void unexpected() const;

  ExprPtr make(ExprKind kind, std::vector<ExprPtr> kids = {}) const;
  ExprPtr checked(ExprPtr node) const;  // sets the node's height from its children
  ExprPtr make_const(Value value) const;
  ExprPtr make_name(const std::string& name);
  NameId intern(const std::string& name);

  Template template_;
  std::vector<MacroDef*> macros_;  // that are being parsed, the innermost last
  int soft_ = 0;  // inside of a branch: an unknown filter is an error only when it is reached

 private:
  ExprPtr parse_condition();
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_compare();
  bool parse_compare_op(CompareOp& op);
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_primary();
  ExprPtr parse_number();
  ExprPtr parse_string();
  ExprPtr parse_list();
  ExprPtr parse_dict();
  ExprPtr parse_subscript(ExprPtr node);
  ExprPtr parse_call(ExprPtr node);
  ExprPtr parse_test(ExprPtr node);
  std::unique_ptr<CallArgs> parse_args();
  bool at_tuple_end(std::string_view stop) const;

  std::vector<Token> tokens_;
  std::size_t idx_ = 0;
  int depth_ = 0;
  std::unordered_map<std::string, NameId> ids_;
};

}  // namespace fastgen::jinja
