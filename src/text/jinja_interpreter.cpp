// Expressions; statements are in jinja_statements.cpp.
#include "text/jinja_interpreter.h"

#include <fmt/format.h>

namespace fastgen::jinja {

const Value* Frame::find_here(NameId name) const {
  for (const auto& [key, value] : variables)
    if (key == name) return &value;
  return nullptr;
}

void Frame::set(NameId name, Value value) {
  for (auto& [key, old] : variables) {
    if (key != name) continue;
    old = std::move(value);
    return;
  }
  variables.emplace_back(name, std::move(value));
}

Value Interpreter::eval(const Expr& e, const FramePtr& frame) {
  if (e.kind == ExprKind::kConst) return e.value;
  charge_steps(1);
  line_ = e.line;
  if (e.kind == ExprKind::kName) return eval_name(e, frame.get());
  Deeper deeper(*this);
  return eval_node(e, frame);
}

Value Interpreter::eval_node(const Expr& e, const FramePtr& frame) {
  switch (e.kind) {
    case ExprKind::kList:
    case ExprKind::kTuple:
      return eval_items(e, frame);
    case ExprKind::kDict:
      return eval_dict(e, frame);
    case ExprKind::kNot:
      return Value::boolean(!truthy(eval(*e.kids[0], frame)));
    case ExprKind::kNegative:
      return negate(eval(*e.kids[0], frame));
    case ExprKind::kPositive:
      return negate(negate(eval(*e.kids[0], frame)));
    case ExprKind::kBinary:
      return eval_binary(e, frame);
    case ExprKind::kConcat:
      return eval_concat(e, frame);
    case ExprKind::kCompare:
      return eval_compare(e, frame);
    case ExprKind::kCondition:
      return eval_condition(e, frame);
    case ExprKind::kSlice:
      return eval_slice(e, frame);
    case ExprKind::kCall:
      return eval_call(e, frame);
    case ExprKind::kTest:
      return eval_test(e, frame);
    case ExprKind::kFilter:
      return eval_filter(e, eval(*e.kids[0], frame), frame);
    case ExprKind::kAnd: {
      Value left = eval(*e.kids[0], frame);
      return truthy(left) ? eval(*e.kids[1], frame) : left;
    }
    case ExprKind::kOr: {
      Value left = eval(*e.kids[0], frame);
      return truthy(left) ? left : eval(*e.kids[1], frame);
    }
    case ExprKind::kAttribute: {
      Value object = eval(*e.kids[0], frame);
      line_ = e.line;
      return get_attribute(object, e.value);
    }
    case ExprKind::kItem: {
      Value object = eval(*e.kids[0], frame);
      Value key = eval(*e.kids[1], frame);
      return get_item(object, key);
    }
    default:
      fail("TemplateRuntimeError", "a namespace attribute can only be assigned");
  }
}

Value Interpreter::eval_name(const Expr& e, const Frame* frame) {
  for (; frame; frame = frame->parent.get())
    if (const Value* found = frame->find_here(e.name)) return *found;
  const std::string& name = template_.names[e.name];
  if (const Value* found = globals_.find(std::string_view(name))) return *found;
  if (auto found = find_global(name, now_)) return *found;
  return Value::undefined(fmt::format("'{}' is undefined", name));
}

Value Interpreter::eval_items(const Expr& e, const FramePtr& frame) {
  std::vector<Value> items;
  items.reserve(e.kids.size());
  for (const ExprPtr& kid : e.kids) items.push_back(eval(*kid, frame));
  return Value::list(std::move(items), e.kind == ExprKind::kList ? ListKind::kList : ListKind::kTuple);
}

Value Interpreter::eval_dict(const Expr& e, const FramePtr& frame) {
  auto dict = std::make_shared<Dict>();
  for (std::size_t i = 0; i < e.kids.size(); i += 2) {
    Value key = eval(*e.kids[i], frame);
    dict->set(key, eval(*e.kids[i + 1], frame));
  }
  return Value::dict(std::move(dict));
}

Value Interpreter::eval_binary(const Expr& e, const FramePtr& frame) {
  Value a = eval(*e.kids[0], frame);
  Value b = eval(*e.kids[1], frame);
  line_ = e.line;
  switch (e.op) {
    case BinaryOp::kAdd:
      return add(a, b);
    case BinaryOp::kSub:
      return subtract(a, b);
    case BinaryOp::kMul:
      return multiply(a, b);
    case BinaryOp::kDiv:
      return divide(a, b);
    case BinaryOp::kFloorDiv:
      return floor_divide(a, b);
    case BinaryOp::kMod:
      return modulo(a, b);
    case BinaryOp::kPow:
      return power(a, b);
  }
  return {};
}

Value Interpreter::eval_concat(const Expr& e, const FramePtr& frame) {
  Text out;
  for (const ExprPtr& kid : e.kids) append_text(out, eval(*kid, frame));
  return Value::string(std::move(out));
}

namespace {

bool compare(CompareOp op, const Value& a, const Value& b) {
  switch (op) {
    case CompareOp::kEq:
      return equal(a, b);
    case CompareOp::kNe:
      return !equal(a, b);
    case CompareOp::kLt:
      return less(a, b, "<");
    case CompareOp::kGt:
      return greater(a, b);
    case CompareOp::kLe:
      return less(a, b, "<=") || equal(a, b);
    case CompareOp::kGe:
      return greater(a, b, ">=") || equal(a, b);
    case CompareOp::kIn:
      return contains(b, a);
    case CompareOp::kNotIn:
      return !contains(b, a);
  }
  return false;
}

}  // namespace

Value Interpreter::eval_compare(const Expr& e, const FramePtr& frame) {
  Value left = eval(*e.kids[0], frame);
  for (std::size_t i = 0; i < e.compare_ops.size(); ++i) {
    Value right = eval(*e.kids[i + 1], frame);
    line_ = e.line;
    if (!compare(e.compare_ops[i], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interpreter::eval_condition(const Expr& e, const FramePtr& frame) {
  if (truthy(eval(*e.kids[1], frame))) return eval(*e.kids[0], frame);
  if (e.kids[2]) return eval(*e.kids[2], frame);
  return Value::undefined(fmt::format(
      "the inline if-expression on line {} evaluated to false and no else section was defined.", e.line));
}

Value Interpreter::eval_slice(const Expr& e, const FramePtr& frame) {
  Value object = eval(*e.kids[0], frame);
  Value bounds[3];
  for (std::size_t i = 0; i < 3; ++i)
    if (e.kids[i + 1]) bounds[i] = eval(*e.kids[i + 1], frame);
  return get_slice(object, bounds[0], bounds[1], bounds[2]);
}

Args Interpreter::eval_args(const CallArgs& call_args, const FramePtr& frame) {
  Args args;
  for (const ExprPtr& e : call_args.positional) args.positional.push_back(eval(*e, frame));
  for (const auto& [name, e] : call_args.named) args.named.emplace_back(name, eval(*e, frame));
  if (call_args.star)
    for (Value& item : iterate(eval(*call_args.star, frame))) args.positional.push_back(std::move(item));
  if (!call_args.star_star) return args;
  Value more = eval(*call_args.star_star, frame);
  if (!more.is_dict())
    fail("TypeError", fmt::format("argument after ** must be a mapping, not {}", type_name(more)));
  for (const auto& [key, value] : more.dict().entries())
    args.named.emplace_back(text_argument(key, "keywords").bytes, value);
  return args;
}

Value Interpreter::eval_call(const Expr& e, const FramePtr& frame) {
  const Expr& callee_expr = *e.kids[0];
  // A method that is called at once needs no bound method. What the sandbox hides is no method to begin with.
  if (callee_expr.kind == ExprKind::kAttribute) {
    Value self = eval(*callee_expr.kids[0], frame);
    line_ = e.line;
    self.require_defined();
    if (Method method = find_method(self, callee_expr.value.str())) {
      Args args = eval_args(*e.args, frame);
      line_ = e.line;
      return method(self, args);
    }
    Value callee = get_attribute(self, callee_expr.value);
    Args args = eval_args(*e.args, frame);
    line_ = e.line;
    return call(callee, args);
  }
  Value callee = eval(callee_expr, frame);
  Args args = eval_args(*e.args, frame);
  line_ = e.line;
  return call(callee, args);
}

Value Interpreter::eval_filter(const Expr& e, const Value& input, const FramePtr& frame) {
  if (!e.filter) fail("TemplateRuntimeError", fmt::format("No filter named '{}' found.", e.value.str()));
  Args args = eval_args(*e.args, frame);
  line_ = e.line;
  return e.filter(input, args);
}

// Filters over the text of a block: the innermost has no input of its own.
Value Interpreter::eval_filter_chain(const Expr& e, const Value& input, const FramePtr& frame) {
  Deeper deeper(*this);
  return eval_filter(e, e.kids[0] ? eval_filter_chain(*e.kids[0], input, frame) : input, frame);
}

Value Interpreter::eval_test(const Expr& e, const FramePtr& frame) {
  if (!e.test) fail("TemplateRuntimeError", fmt::format("No test named '{}' found.", e.value.str()));
  Value input = eval(*e.kids[0], frame);
  Args args = eval_args(*e.args, frame);
  line_ = e.line;
  return Value::boolean(e.test(input, args));
}

}  // namespace fastgen::jinja
