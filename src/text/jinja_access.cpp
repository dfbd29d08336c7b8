// Attributes, items and slices: what stands behind a value in a template, by Python's rules.
#include <fmt/format.h>

#include <algorithm>

#include "text/jinja_builtins.h"

namespace fastgen::jinja {

namespace {

std::string object_type_repr(const Value& value) {
  if (value.is_none()) return "None";
  return type_name(value) + " object";
}

Value missing(const Value& object, const Value& key) {
  if (!key.is_string()) {
    Text repr;
    append_repr(repr, key);
    return Value::undefined(fmt::format("{} has no element {}", object_type_repr(object), repr.bytes));
  }
  return Value::undefined(fmt::format("'{}' has no attribute '{}'", object_type_repr(object), key.str()));
}

// A method taken from its object and not called yet: value.upper
struct BoundMethod : Object {
  Value self;
  Method method = nullptr;
  std::string name;
  std::string type_name() const override { return "builtin_function_or_method"; }
  bool is_callable() const override { return true; }
  Value call(Args& args) override { return method(self, args); }
};

// What getattr() finds: methods, and the attributes of objects. The sandbox hides what begins with "_" and
// whatever changes a list or dict.
std::optional<Value> own_attribute(const Value& object, const std::string& name) {
  static constexpr std::string_view kListMutators[] = {"append", "clear", "pop",    "reverse",
                                                       "insert", "sort",  "extend", "remove"};
  static constexpr std::string_view kDictMutators[] = {"clear", "pop", "popitem", "setdefault", "update"};
  auto is_mutator = [&](const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  bool is_list = object.is_list() && object.list_data().kind == ListKind::kList;
  bool unsafe = name.starts_with("__") || (is_list && is_mutator(kListMutators)) ||
                (object.is_dict() && is_mutator(kDictMutators));
  if (unsafe) {
    std::string message =
        fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(object));
    return Value::undefined(message, "SecurityError");
  }
  if (object.is(Type::kObject)) return object.object().attribute(name);
  if (object.is_list() && object.list_data().is_group && (name == "grouper" || name == "list"))
    return object.items()[name == "list"];
  Method method = find_method(object, name);
  if (!method) return std::nullopt;
  auto bound = std::make_shared<BoundMethod>();
  bound->self = object;
  bound->depth = nesting_above(object);
  bound->method = method;
  bound->name = name;
  return Value::object(bound);
}

// Index into `size` items from a Python index; nullopt when out of range.
std::optional<std::size_t> position(std::int64_t index, std::size_t size) {
  auto count = static_cast<std::int64_t>(size);
  if (index < -count || index >= count) return std::nullopt;
  return static_cast<std::size_t>(index < 0 ? index + count : index);
}

std::optional<Value> character_at(const Text& text, std::int64_t index) {
  charge_steps(text.size() / 256);
  auto at = position(index, code_points(text.bytes));
  if (!at) return std::nullopt;
  std::size_t begin = byte_offset(text.bytes, *at);
  std::size_t end = begin;
  next_code_point(text.bytes, end);
  return Value::string(text.slice(begin, end));
}

// object[key] alone, without the fallback to attributes.
std::optional<Value> own_item(const Value& object, const Value& key) {
  if (object.is_dict()) {
    if (key.is_list() && key.list_data().kind != ListKind::kTuple) return std::nullopt;
    if (key.is_dict()) return std::nullopt;
    const Value* found = object.dict().find(key);
    return found ? std::optional(*found) : std::nullopt;
  }
  if (!key.is_integral()) return std::nullopt;
  if (object.is_string()) return character_at(object.text(), key.as_int());
  if (!object.is_list() || (object.list_data().kind != ListKind::kRange && !object.is_sequence()))
    return std::nullopt;
  auto at = position(key.as_int(), object.items().size());
  return at ? std::optional(object.items()[*at]) : std::nullopt;
}

struct SliceBounds {
  std::int64_t start;
  std::int64_t stop;
  std::int64_t step;
};

std::int64_t clamp_bound(const Value& bound, std::int64_t size, std::int64_t otherwise, std::int64_t step) {
  if (bound.is_none()) return otherwise;
  if (!bound.is_integral())
    fail("TypeError", "slice indices must be integers or None or have an __index__ method");
  std::int64_t i = bound.as_int();
  if (i < 0) i = i < -size ? -1 : i + size;
  std::int64_t low = step > 0 ? 0 : -1;
  return std::clamp(i, low, step > 0 ? size : size - 1);
}

SliceBounds slice_bounds(std::int64_t size, const Value& start, const Value& stop, const Value& step_value) {
  if (!step_value.is_none() && !step_value.is_integral())
    fail("TypeError", "slice indices must be integers or None or have an __index__ method");
  std::int64_t step = step_value.is_none() ? 1 : step_value.as_int();
  if (step == 0) fail("ValueError", "slice step cannot be zero");
  step = std::clamp<std::int64_t>(step, -size - 1, size + 1);
  return {clamp_bound(start, size, step > 0 ? 0 : size - 1, step),
          clamp_bound(stop, size, step > 0 ? size : -1, step), step};
}

bool goes_on(const SliceBounds& b, std::int64_t i) { return b.step > 0 ? i < b.stop : i > b.stop; }

Value slice_string(const Text& text, const Value& start, const Value& stop, const Value& step) {
  charge_steps(text.size() / 256);
  SliceBounds bounds = slice_bounds(static_cast<std::int64_t>(code_points(text.bytes)), start, stop, step);
  if (bounds.step == 1) {
    std::size_t begin = byte_offset(text.bytes, static_cast<std::size_t>(bounds.start));
    std::size_t end = byte_offset(text.bytes, static_cast<std::size_t>(bounds.stop));
    return Value::string(text.slice(begin, std::max(begin, end)));
  }
  charge_steps(text.size());
  std::vector<std::size_t> begins;
  for (std::size_t pos = 0; pos < text.size(); next_code_point(text.bytes, pos)) begins.push_back(pos);
  begins.push_back(text.size());
  Text out;
  for (std::int64_t i = bounds.start; goes_on(bounds, i); i += bounds.step)
    out.append(text, begins[static_cast<std::size_t>(i)], begins[static_cast<std::size_t>(i) + 1]);
  return Value::string(std::move(out));
}

}  // namespace

Value get_attribute(const Value& object, const Value& name) {
  object.require_defined();
  if (auto found = own_attribute(object, name.str())) return *found;
  if (auto found = own_item(object, name)) return *found;
  return missing(object, name);
}

Value get_item(const Value& object, const Value& key) {
  object.require_defined();
  if (auto found = own_item(object, key)) return *found;
  if (key.is_string())
    if (auto found = own_attribute(object, key.str())) return *found;
  return missing(object, key);
}

Value get_path(const Value& object, const Value& path, const Value* otherwise) {
  if (!path.is_string()) return get_item(object, path);
  Value current = object;
  std::string_view rest = path.str();
  for (;;) {
    std::size_t dot = rest.find('.');
    std::string part(rest.substr(0, dot));
    bool is_index = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == part.npos;
    current = get_item(current, is_index ? Value::integer(std::stoll(part)) : Value::string(part));
    if (current.is_undefined() && otherwise && !otherwise->is_none()) current = *otherwise;
    if (dot == rest.npos) return current;
    rest.remove_prefix(dot + 1);
  }
}

Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step) {
  object.require_defined();
  if (object.is_string()) return slice_string(object.text(), start, stop, step);
  if (!object.is_list() || (object.list_data().kind != ListKind::kRange && !object.is_sequence()))
    fail("TypeError", object.is_dict() ? "unhashable type: 'slice'"
                                       : fmt::format("'{}' object is not subscriptable", type_name(object)));
  SliceBounds bounds = slice_bounds(static_cast<std::int64_t>(object.items().size()), start, stop, step);
  std::vector<Value> out;
  for (std::int64_t i = bounds.start; goes_on(bounds, i); i += bounds.step)
    out.push_back(object.items()[static_cast<std::size_t>(i)]);
  return Value::list(std::move(out), object.list_data().kind);
}

}  // namespace fastgen::jinja
