// The tree of a template. Nodes are plain data, made by the parser and never changed after it; what the
// children of a node mean stands beside its kind. Height is bounded, so walking and freeing may recurse.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_builtins.h"
#include "text/jinja_value.h"

namespace fastgen::jinja {

using NameId = std::uint32_t;  // names of variables, numbered per template

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using StmtPtr = std::unique_ptr<Stmt>;
using Body = std::vector<StmtPtr>;

enum class ExprKind : std::uint8_t {
  kConst,      // value
  kName,       // name
  kNsRef,      // name, value: the attribute; only as a target of set
  kList,       // kids: items
  kTuple,      // kids: items
  kDict,       // kids: key, value, key, value...
  kNot,        // kids: operand
  kNegative,   // kids: operand
  kPositive,   // kids: operand
  kBinary,     // op; kids: left, right
  kAnd,        // kids: left, right
  kOr,         // kids: left, right
  kConcat,     // kids: parts of a ~ b ~ c
  kCompare,    // kids: first, then one per entry of compare_ops
  kCondition,  // kids: then, test, else (may be null)
  kAttribute,  // kids: object; value: the name
  kItem,       // kids: object, index
  kSlice,      // kids: object, start, stop, step (each may be null)
  kCall,       // kids: callee; args
  kFilter,     // kids: input (null in filter blocks); value: the name; filter; args
  kTest,       // kids: input; value: the name; test; args
};

enum class BinaryOp : std::uint8_t { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow };
enum class CompareOp : std::uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct CallArgs {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star;       // *args
  ExprPtr star_star;  // **kwargs
};

struct Expr {
  ExprKind kind = ExprKind::kConst;
  BinaryOp op = BinaryOp::kAdd;
  NameId name = 0;
  int line = 0;
  int height = 1;
  Value value;
  std::vector<ExprPtr> kids;
  std::vector<CompareOp> compare_ops;
  std::unique_ptr<CallArgs> args;
  Filter filter = nullptr;  // null: no such filter, an error when evaluated
  Test test = nullptr;
};

struct Parameter {
  NameId name = 0;
  std::string text;
  ExprPtr default_value;  // may be null
};

struct MacroDef {
  std::string name;
  std::vector<Parameter> parameters;
  Body body;
  bool uses_caller = false;
  bool uses_varargs = false;
  bool uses_kwargs = false;
};

enum class StmtKind : std::uint8_t {
  kText,         // text
  kOutput,       // exprs: what to print
  kIf,           // branches (test, body), else_body
  kFor,          // target; exprs: iterable, filter (may be null); body, else_body; recursive
  kSet,          // target; exprs: value
  kSetBlock,     // target; exprs: filter chain or null; body
  kMacro,        // name; macro
  kCallBlock,    // exprs: the call; macro: the caller
  kFilterBlock,  // exprs: filter chain; body
  kWith,         // targets and exprs, pairwise; body
  kScope,        // body in a scope of its own ({% generation %})
  kBreak,
  kContinue,
};

struct Branch {
  ExprPtr test;
  Body body;
};

struct Stmt {
  StmtKind kind = StmtKind::kText;
  bool recursive = false;
  NameId name = 0;
  int line = 0;
  Value text;
  ExprPtr target;
  std::vector<ExprPtr> targets;
  std::vector<ExprPtr> exprs;
  std::vector<Branch> branches;
  Body body;
  Body else_body;
  std::unique_ptr<MacroDef> macro;
};

// Names that the interpreter itself binds, in the order of WellKnown below.
enum WellKnown : NameId { kLoop, kCaller, kVarargs, kKwargs, kNumWellKnown };

struct Template {
  Body body;
  std::vector<std::string> names;  // by NameId
};

// Lists of kids; a braced list would need copies.
inline std::vector<ExprPtr> pair_of(ExprPtr a, ExprPtr b) {
  std::vector<ExprPtr> kids;
  kids.push_back(std::move(a));
  kids.push_back(std::move(b));
  return kids;
}

inline std::vector<ExprPtr> only(ExprPtr a) {
  std::vector<ExprPtr> kids;
  kids.push_back(std::move(a));
  return kids;
}

}  // namespace fastgen::jinja
