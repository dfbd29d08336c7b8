// Statements, loops and macros of the interpreter.
#include <fmt/format.h>

#include <algorithm>

#include "text/jinja_interpreter.h"
#include "text/jinja_objects.h"

namespace fastgen::jinja {

namespace {

FramePtr inner(const FramePtr& parent) {
  auto frame = std::make_shared<Frame>();
  frame->parent = parent;
  return frame;
}

struct Macro : Object {
  Interpreter* interpreter = nullptr;
  const MacroDef* def = nullptr;
  FramePtr closure;

  std::string type_name() const override { return "Macro"; }
  bool is_callable() const override { return true; }
  Value call(Args& args) override { return interpreter->call_macro(*def, closure, args); }
  std::optional<Value> attribute(std::string_view name) override {
    if (name == "name") return Value::string(Text::from_template(def->name));
    if (name == "caller") return Value::boolean(def->uses_caller);
    if (name == "catch_kwargs") return Value::boolean(def->uses_kwargs);
    if (name == "catch_varargs") return Value::boolean(def->uses_varargs);
    return std::nullopt;
  }
  std::string repr() const override { return fmt::format("<Macro '{}'>", def->name); }
};

}  // namespace

Interpreter::Interpreter(const Template& tmpl, const Dict& globals, const std::string& now)
    : template_(tmpl), globals_(globals), now_(now) {}

Interpreter::~Interpreter() {
  for (const FramePtr& frame : captured_) frame->variables.clear();
}

Text Interpreter::render() {
  NamespaceScope namespaces;
  Text text;
  capture(template_.body, std::make_shared<Frame>(), text);
  return text;
}

Interpreter::Flow Interpreter::capture(const Body& body, const FramePtr& frame, Text& text) {
  Text* outer = std::exchange(out_, &text);
  const Flow flow = run(body, frame);
  out_ = outer;
  return flow;
}

Interpreter::Flow Interpreter::run(const Body& body, const FramePtr& frame) {
  Deeper deeper(*this);
  for (const StmtPtr& stmt : body) {
    charge_steps(1);
    Flow flow = run_statement(*stmt, frame);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::run_statement(const Stmt& s, const FramePtr& frame) {
  line_ = s.line;
  switch (s.kind) {
    case StmtKind::kText:
      out_->append(s.text.text());
      break;
    case StmtKind::kOutput:
      append_text(*out_, eval(*s.exprs[0], frame));
      break;
    case StmtKind::kIf:
      return run_if(s, frame);
    case StmtKind::kFor:
      return run_for(s, eval(*s.exprs[0], frame), frame, 1);
    case StmtKind::kSet:
      assign(*s.target, eval(*s.exprs[0], frame), frame);
      break;
    case StmtKind::kSetBlock:
      return run_set_block(s, frame);
    case StmtKind::kMacro:
      frame->set(s.name, make_macro(*s.macro, frame));
      break;
    case StmtKind::kCallBlock:
      run_call_block(s, frame);
      break;
    case StmtKind::kFilterBlock:
      return run_filter_block(s, frame);
    case StmtKind::kWith:
      return run_with(s, frame);
    case StmtKind::kScope:
      return run(s.body, inner(frame));
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::run_if(const Stmt& s, const FramePtr& frame) {
  for (const Branch& branch : s.branches)
    if (truthy(eval(*branch.test, frame))) return run(branch.body, frame);
  return run(s.else_body, frame);
}

// The items that the loop turns over: all, or those that its `if` lets through.
std::vector<Value> Interpreter::loop_items(const Stmt& s, const Value& value, const FramePtr& frame) {
  std::vector<Value> items = iterate(value);
  if (!s.exprs[1]) return items;
  std::vector<Value> kept;
  for (Value& item : items) {
    FramePtr scope = inner(frame);
    assign(*s.target, item, scope);
    if (truthy(eval(*s.exprs[1], scope))) kept.push_back(std::move(item));
  }
  return kept;
}

Interpreter::Flow Interpreter::run_for(const Stmt& s, const Value& value, const FramePtr& frame, int depth) {
  std::vector<Value> items = loop_items(s, value, frame);
  // As Jinja2 has it, `else` is for a loop no turn of which came to its end, be it by break or continue.
  if (!run_turns(s, items, frame, depth)) return run(s.else_body, inner(frame));
  return Flow::kNormal;
}

bool Interpreter::run_turns(const Stmt& s, const std::vector<Value>& items, const FramePtr& frame, int depth) {
  bool ended_one = false;
  auto loop = std::make_shared<Loop>();
  loop->items = &items;
  loop->size = items.size();
  loop->depth = depth;
  if (s.recursive)
    loop->recurse = [this, &s, frame, depth](const Value& more) {
      return call_loop(s, frame, more, depth + 1);
    };
  Value loop_value = Value::object(loop);
  struct AtEnd {
    Loop& loop;
    ~AtEnd() { loop.end(); }
  } at_end{*loop};
  FramePtr scope;
  for (std::size_t i = 0; i < items.size(); ++i) {
    charge_steps(1);
    loop->idx = i;
    if (scope && scope.use_count() == 1)
      scope->variables.clear();  // no macro holds it: the next turn may have it
    else
      scope = inner(frame);
    scope->set(kLoop, loop_value);
    assign(*s.target, items[i], scope);
    const Flow flow = run(s.body, scope);
    ended_one |= flow == Flow::kNormal;
    if (flow == Flow::kBreak) break;
  }
  return ended_one;
}

Value Interpreter::call_loop(const Stmt& s, const FramePtr& frame, const Value& items, int depth) {
  Deeper deeper(*this);
  Text text;
  Text* outer = std::exchange(out_, &text);
  run_for(s, items, frame, depth);
  out_ = outer;
  return Value::string(std::move(text));
}

// A break or continue within such a block leaves it with what it wrote.
Interpreter::Flow Interpreter::run_set_block(const Stmt& s, const FramePtr& frame) {
  Text block;
  if (Flow flow = capture(s.body, inner(frame), block); flow != Flow::kNormal) return flow;
  Value text = Value::string(std::move(block));
  assign(*s.target, s.exprs[0] ? eval_filter_chain(*s.exprs[0], text, frame) : text, frame);
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::run_filter_block(const Stmt& s, const FramePtr& frame) {
  Text block;
  if (Flow flow = capture(s.body, inner(frame), block); flow != Flow::kNormal) return flow;
  append_text(*out_, eval_filter_chain(*s.exprs[0], Value::string(std::move(block)), frame));
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::run_with(const Stmt& s, const FramePtr& frame) {
  FramePtr scope = inner(frame);
  for (std::size_t i = 0; i < s.targets.size(); ++i) {
    Value value = eval(*s.exprs[i], frame);
    assign(*s.targets[i], value, scope);
  }
  return run(s.body, scope);
}

void Interpreter::run_call_block(const Stmt& s, const FramePtr& frame) {
  const Expr& e = *s.exprs[0];
  Value callee = eval(*e.kids[0], frame);
  Args args = eval_args(*e.args, frame);
  args.named.emplace_back("caller", make_macro(*s.macro, frame));
  line_ = s.line;
  append_text(*out_, call(callee, args));
}

void Interpreter::assign(const Expr& target, const Value& value, const FramePtr& frame) {
  if (target.kind == ExprKind::kName) return frame->set(target.name, value);
  if (target.kind == ExprKind::kNsRef) {
    Value object = eval_name(target, frame.get());
    auto* ns = object.is(Type::kObject) ? dynamic_cast<Namespace*>(&object.object()) : nullptr;
    if (!ns) fail("TemplateRuntimeError", "cannot assign attribute on non-namespace object");
    return ns->set(target.value.str(), value);
  }
  bool is_row = value.is_undefined() || value.is_string() || value.is_list() || value.is_dict();
  if (!is_row) fail("TypeError", fmt::format("cannot unpack non-iterable {} object", type_name(value)));
  std::vector<Value> items = iterate(value);
  if (items.size() > target.kids.size())
    fail("ValueError", fmt::format("too many values to unpack (expected {})", target.kids.size()));
  if (items.size() < target.kids.size())
    fail("ValueError",
         fmt::format("not enough values to unpack (expected {}, got {})", target.kids.size(), items.size()));
  for (std::size_t i = 0; i < items.size(); ++i) assign(*target.kids[i], items[i], frame);
}

Value Interpreter::make_macro(const MacroDef& def, const FramePtr& frame) {
  auto macro = std::make_shared<Macro>();
  macro->charged = charge_bytes(sizeof(Macro) + sizeof(Frame));
  macro->interpreter = this;
  macro->def = &def;
  macro->closure = frame;
  if (captured_.empty() || captured_.back() != frame) captured_.push_back(frame);
  return Value::object(macro);
}

Value Interpreter::call_macro(const MacroDef& macro, const FramePtr& closure, Args& args) {
  Deeper deeper(*this);
  FramePtr frame = inner(closure);
  bind_macro_args(macro, args, frame);
  Text text;
  capture(macro.body, frame, text);
  return Value::string(std::move(text));
}

// Positional arguments first, then by name; what is left over goes to varargs and kwargs if the macro reads
// them. Defaults see the parameters before them.
void Interpreter::bind_macro_args(const MacroDef& macro, Args& args, const FramePtr& frame) {
  std::size_t given = std::min(args.positional.size(), macro.parameters.size());
  for (std::size_t i = 0; i < given; ++i) frame->set(macro.parameters[i].name, args.positional[i]);
  for (std::size_t i = given; i < macro.parameters.size(); ++i) {
    const Parameter& parameter = macro.parameters[i];
    auto named = std::find_if(args.named.begin(), args.named.end(),
                              [&](const auto& arg) { return arg.first == parameter.text; });
    if (named != args.named.end()) {
      frame->set(parameter.name, named->second);
      args.named.erase(named);
    } else if (parameter.default_value) {
      frame->set(parameter.name, eval(*parameter.default_value, frame));
    } else {
      frame->set(parameter.name,
                 Value::undefined(fmt::format("parameter '{}' was not provided", parameter.text)));
    }
  }
  auto caller = std::find_if(args.named.begin(), args.named.end(),
                             [](const auto& arg) { return arg.first == "caller"; });
  if (macro.uses_caller && caller != args.named.end()) {
    frame->set(kCaller, caller->second);
    args.named.erase(caller);
  } else if (macro.uses_caller && macro.name != "caller") {
    frame->set(kCaller, Value::undefined("No caller defined"));
  }
  if (macro.uses_kwargs) {
    auto rest = std::make_shared<Dict>();
    for (const auto& [name, value] : args.named) rest->set(Value::string(name), value);
    frame->set(kKwargs, Value::dict(std::move(rest)));
  } else if (!args.named.empty()) {
    fail("TypeError",
         fmt::format("macro '{}' takes no keyword argument '{}'", macro.name, args.named[0].first));
  }
  std::vector<Value> rest(args.positional.begin() + static_cast<std::ptrdiff_t>(given),
                          args.positional.end());
  if (macro.uses_varargs)
    frame->set(kVarargs, Value::list(std::move(rest), ListKind::kTuple));
  else if (!rest.empty())
    fail("TypeError",
         fmt::format("macro '{}' takes not more than {} argument(s)", macro.name, macro.parameters.size()));
}

}  // namespace fastgen::jinja
