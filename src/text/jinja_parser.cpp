#include "text/jinja_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "text/jinja_expr_parser.h"

namespace fastgen::jinja {

namespace {

class Parser : private ExprParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExprParser(std::move(tokens)) {}

  Template run() {
    template_.body = parse_body({});
    return std::move(template_);
  }

 private:
  using Ends = std::initializer_list<std::string_view>;

  StmtPtr make_stmt(StmtKind kind) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = now().line;
    return stmt;
  }

  // Statements up to a tag named in `ends`, which is left at its name; with none, to the template's end.
  Body parse_body(Ends ends) {
    Nested nested(*this);
    Body body;
    for (;;) {
      if (at(TokenKind::kEnd)) {
        if (ends.size() != 0)
          error(fmt::format("Unexpected end of template, expected '{}'", *(ends.end() - 1)));
        return body;
      }
      if (at(TokenKind::kData)) {
        body.push_back(make_stmt(StmtKind::kText));
        body.back()->text = Value::string(Text::from_template(now().text));
        next();
      } else if (at(TokenKind::kOutputBegin)) {
        next();
        body.push_back(make_stmt(StmtKind::kOutput));
        body.back()->exprs.push_back(parse_tuple());
        expect(TokenKind::kOutputEnd);
      } else {
        expect(TokenKind::kBlockBegin);
        if (at(TokenKind::kName) && std::find(ends.begin(), ends.end(), now().text) != ends.end())
          return body;
        body.push_back(parse_statement());
      }
    }
  }

  // The body between the end of this tag and {% end %}, that tag included.
  Body parse_block(std::string_view end) {
    expect(TokenKind::kBlockEnd);
    Body body = parse_body({end});
    next();
    expect(TokenKind::kBlockEnd);
    return body;
  }

  StmtPtr parse_statement() {
    std::string tag = take_name();
    if (tag == "if") return parse_if();
    if (tag == "for") return parse_for();
    if (tag == "set") return parse_set();
    if (tag == "macro") return parse_macro();
    if (tag == "call") return parse_call_block();
    if (tag == "filter") return parse_filter_block();
    if (tag == "with") return parse_with();
    if (tag == "print") return parse_print();
    if (tag == "generation") return parse_scope("endgeneration");
    if (tag == "autoescape") return parse_autoescape();
    if (tag == "break" || tag == "continue") return parse_loop_control(tag);
    error(fmt::format("Encountered unknown tag '{}'.", tag));
  }

  StmtPtr parse_if() {
    StmtPtr stmt = make_stmt(StmtKind::kIf);
    ++soft_;
    for (;;) {
      Branch branch;
      branch.test = parse_tuple(false);
      expect(TokenKind::kBlockEnd);
      branch.body = parse_body({"elif", "else", "endif"});
      stmt->branches.push_back(std::move(branch));
      if (skip_name("elif")) continue;
      if (skip_name("else")) {
        stmt->else_body = parse_block("endif");
      } else {
        next();
        expect(TokenKind::kBlockEnd);
      }
      --soft_;
      return stmt;
    }
  }

  StmtPtr parse_for() {
    StmtPtr stmt = make_stmt(StmtKind::kFor);
    stmt->target = parse_target(false);
    expect_name("in");
    stmt->exprs.push_back(parse_tuple(false, "recursive"));
    stmt->exprs.push_back(skip_name("if") ? parse_expression() : nullptr);
    stmt->recursive = skip_name("recursive");
    expect(TokenKind::kBlockEnd);
    ++loops_;
    stmt->body = parse_body({"else", "endfor"});
    --loops_;
    if (skip_name("else")) {
      stmt->else_body = parse_block("endfor");
    } else {
      next();
      expect(TokenKind::kBlockEnd);
    }
    return stmt;
  }

  StmtPtr parse_set() {
    StmtPtr stmt = make_stmt(StmtKind::kSet);
    stmt->target = parse_target(true);
    if (skip_op("=")) {
      stmt->exprs.push_back(parse_tuple());
      expect(TokenKind::kBlockEnd);
      return stmt;
    }
    stmt->kind = StmtKind::kSetBlock;
    stmt->exprs.push_back(parse_filter(nullptr, false));
    stmt->body = parse_block("endset");
    return stmt;
  }

  void parse_signature(MacroDef& macro) {
    expect_op("(");
    while (!at_op(")")) {
      if (!macro.parameters.empty()) expect_op(",");
      Parameter parameter;
      parameter.text = now().text;
      parameter.name = parse_name_target()->name;
      if (skip_op("="))
        parameter.default_value = parse_expression();
      else if (!macro.parameters.empty() && macro.parameters.back().default_value)
        error("non-default argument follows default argument");
      macro.parameters.push_back(std::move(parameter));
    }
    expect_op(")");
  }

  void parse_macro_body(MacroDef& macro, std::string_view end) {
    macros_.push_back(&macro);
    int loops = std::exchange(loops_, 0);
    macro.body = parse_block(end);
    loops_ = loops;
    macros_.pop_back();
    if (macros_.empty()) return;
    // A macro within a macro reads the outer one's arguments.
    macros_.back()->uses_caller |= macro.uses_caller;
    macros_.back()->uses_varargs |= macro.uses_varargs;
    macros_.back()->uses_kwargs |= macro.uses_kwargs;
  }

  StmtPtr parse_macro() {
    StmtPtr stmt = make_stmt(StmtKind::kMacro);
    stmt->macro = std::make_unique<MacroDef>();
    stmt->macro->name = now().text;
    stmt->name = parse_name_target()->name;
    parse_signature(*stmt->macro);
    parse_macro_body(*stmt->macro, "endmacro");
    return stmt;
  }

  StmtPtr parse_call_block() {
    StmtPtr stmt = make_stmt(StmtKind::kCallBlock);
    stmt->macro = std::make_unique<MacroDef>();
    stmt->macro->name = "caller";
    if (at_op("(")) parse_signature(*stmt->macro);
    stmt->exprs.push_back(parse_expression());
    if (stmt->exprs[0]->kind != ExprKind::kCall) error("expected call");
    parse_macro_body(*stmt->macro, "endcall");
    return stmt;
  }

  StmtPtr parse_filter_block() {
    StmtPtr stmt = make_stmt(StmtKind::kFilterBlock);
    stmt->exprs.push_back(parse_filter(nullptr, true));
    stmt->body = parse_block("endfilter");
    return stmt;
  }

  StmtPtr parse_with() {
    StmtPtr stmt = make_stmt(StmtKind::kWith);
    while (!at(TokenKind::kBlockEnd)) {
      if (!stmt->targets.empty()) expect_op(",");
      stmt->targets.push_back(parse_name_target());
      expect_op("=");
      stmt->exprs.push_back(parse_expression());
    }
    stmt->body = parse_block("endwith");
    return stmt;
  }

  StmtPtr parse_print() {
    StmtPtr stmt = make_stmt(StmtKind::kOutput);
    stmt->exprs.push_back(parse_tuple());
    expect(TokenKind::kBlockEnd);
    return stmt;
  }

  StmtPtr parse_scope(std::string_view end) {
    StmtPtr stmt = make_stmt(StmtKind::kScope);
    stmt->body = parse_block(end);
    return stmt;
  }

  StmtPtr parse_autoescape() {
    parse_expression();  // there is no HTML here, so it escapes nothing either way
    return parse_scope("endautoescape");
  }

  StmtPtr parse_loop_control(const std::string& tag) {
    if (loops_ == 0) error(fmt::format("'{}' outside loop", tag));
    StmtPtr stmt = make_stmt(tag == "break" ? StmtKind::kBreak : StmtKind::kContinue);
    expect(TokenKind::kBlockEnd);
    return stmt;
  }

  int loops_ = 0;  // around the statement, within its macro
};

}  // namespace

Template parse_template(std::string_view source) { return Parser(lex(source)).run(); }

}  // namespace fastgen::jinja
