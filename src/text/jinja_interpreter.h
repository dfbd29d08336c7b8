// Walks the tree of a template and writes its output.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_ast.h"

namespace fastgen::jinja {

// The variables of one scope; a name not found is looked for in the parent. A macro keeps the scope alive
// in which it was defined.
struct Frame {
  std::shared_ptr<Frame> parent;
  std::vector<std::pair<NameId, Value>> variables;

  const Value* find_here(NameId name) const;
  void set(NameId name, Value value);
};
using FramePtr = std::shared_ptr<Frame>;

// One rendering. Not thread-safe; needs a BudgetScope around it.
class Interpreter {
 public:
  // `globals`: messages, tools and the like, by name. All must outlive the interpreter.
  Interpreter(const Template& tmpl, const Dict& globals, const std::string& now);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  Text render();                      // throws RenderError
  int line() const { return line_; }  // of what was evaluated last, for the message

  // For macros and recursive loops, which run more of the tree when they are called.
  Value call_macro(const MacroDef& macro, const FramePtr& closure, Args& args);
  Value call_loop(const Stmt& loop, const FramePtr& scope, const Value& items, int depth);

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  // One level of evaluation; fails where a template recurses too deep for the stack.
  class Deeper {
   public:
    explicit Deeper(Interpreter& interpreter) : interpreter_(interpreter) {
      if (interpreter.depth_ >= kMaxCallDepth) fail("RecursionError", "maximum recursion depth exceeded");
      ++interpreter.depth_;
    }
    ~Deeper() { --interpreter_.depth_; }

   private:
    Interpreter& interpreter_;
  };

  Value eval(const Expr& e, const FramePtr& frame);
  Value eval_node(const Expr& e, const FramePtr& frame);
  Value eval_name(const Expr& e, const Frame* frame);
  Value eval_items(const Expr& e, const FramePtr& frame);
  Value eval_dict(const Expr& e, const FramePtr& frame);
  Value eval_binary(const Expr& e, const FramePtr& frame);
  Value eval_concat(const Expr& e, const FramePtr& frame);
  Value eval_compare(const Expr& e, const FramePtr& frame);
  Value eval_condition(const Expr& e, const FramePtr& frame);
  Value eval_slice(const Expr& e, const FramePtr& frame);
  Value eval_call(const Expr& e, const FramePtr& frame);
  Value eval_filter(const Expr& e, const Value& input, const FramePtr& frame);
  Value eval_filter_chain(const Expr& e, const Value& input, const FramePtr& frame);
  Value eval_test(const Expr& e, const FramePtr& frame);
  Args eval_args(const CallArgs& args, const FramePtr& frame);

  Flow run(const Body& body, const FramePtr& frame);
  Flow run_statement(const Stmt& s, const FramePtr& frame);
  Flow run_if(const Stmt& s, const FramePtr& frame);
  Flow run_for(const Stmt& s, const Value& items, const FramePtr& frame, int depth);
  bool run_turns(const Stmt& s, const std::vector<Value>& items, const FramePtr& frame, int depth);
  std::vector<Value> loop_items(const Stmt& s, const Value& items, const FramePtr& frame);
  Flow run_set_block(const Stmt& s, const FramePtr& frame);
  Flow run_filter_block(const Stmt& s, const FramePtr& frame);
  void run_call_block(const Stmt& s, const FramePtr& frame);
  Flow run_with(const Stmt& s, const FramePtr& frame);
  Flow capture(const Body& body, const FramePtr& frame, Text& text);
  void assign(const Expr& target, const Value& value, const FramePtr& frame);
  Value make_macro(const MacroDef& macro, const FramePtr& frame);
  void bind_macro_args(const MacroDef& macro, Args& args, const FramePtr& frame);

  const Template& template_;
  const Dict& globals_;
  const std::string& now_;
  Text* out_ = nullptr;
  int line_ = 1;
  int depth_ = 0;
  // Scopes that macros hold, and namespaces: they may refer to each other in circles, so they are emptied
  // when the rendering ends.
  std::vector<FramePtr> captured_;
};

}  // namespace fastgen::jinja
