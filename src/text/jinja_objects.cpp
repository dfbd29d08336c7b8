#include "text/jinja_objects.h"

#include <fmt/format.h>

#include <algorithm>

namespace fastgen::jinja {

namespace {

thread_local std::vector<std::shared_ptr<Namespace>> namespaces;

}  // namespace

std::optional<Value> Namespace::attribute(std::string_view name) {
  for (const auto& [key, value] : attributes)
    if (key == name) return value;
  return std::nullopt;
}

void Namespace::set(const std::string& name, Value value) {
  charge_steps(1 + attributes.size() / 16);
  for (auto& [key, old] : attributes) {
    if (key != name) continue;
    old = std::move(value);
    return;
  }
  charged += charge_bytes(sizeof(std::pair<std::string, Value>) + name.size());
  attributes.emplace_back(name, std::move(value));
}

NamespaceScope::NamespaceScope() : first_(namespaces.size()) {}

NamespaceScope::~NamespaceScope() {
  // All of them are held here, so emptying one never frees another: no recursion, however long the chain.
  for (std::size_t i = first_; i < namespaces.size(); ++i) namespaces[i]->attributes.clear();
  namespaces.resize(first_);
}

std::shared_ptr<Namespace> make_namespace() {
  auto made = std::make_shared<Namespace>();
  made->charged = charge_bytes(sizeof(Namespace));
  namespaces.push_back(made);
  return made;
}

std::optional<Value> Loop::attribute(std::string_view name) {
  auto number = [](std::size_t n) { return Value::integer(static_cast<std::int64_t>(n), true); };
  if (name == "index") return number(idx + 1);
  if (name == "index0") return number(idx);
  if (name == "revindex") return number(size - idx);
  if (name == "revindex0") return number(size - idx - 1);
  if (name == "first") return Value::boolean(idx == 0);
  if (name == "last") return Value::boolean(idx + 1 == size);
  if (name == "length") return number(size);
  if (name == "depth") return Value::integer(depth, true);
  if (name == "depth0") return Value::integer(depth - 1, true);
  if (name == "previtem")
    return idx > 0 && items ? (*items)[idx - 1] : Value::undefined("there is no previous item");
  if (name == "nextitem")
    return idx + 1 < size && items ? (*items)[idx + 1] : Value::undefined("there is no next item");
  if (name == "cycle")
    return make_function("cycle", [at = idx](Args& args) {
      if (args.positional.empty()) fail("TypeError", "no items for cycling given");
      return args.positional[at % args.positional.size()];
    });
  if (name == "changed") {
    return make_function("changed", [self = shared_from_this()](Args& args) {
      if (!self->items) return Value::boolean(true);
      bool same =
          self->has_changed && self->last_changed.size() == args.positional.size() &&
          std::equal(self->last_changed.begin(), self->last_changed.end(), args.positional.begin(), equal);
      self->last_changed = args.positional;
      self->has_changed = true;
      return Value::boolean(!same);
    });
  }
  return std::nullopt;
}

Value Loop::call(Args& args) {
  if (!recurse) fail("TypeError", "The loop must have the 'recursive' marker to be called recursively.");
  auto bound = bind(args, "loop", {"iterable"});
  if (!bound[0]) fail("TypeError", "loop() missing 1 required positional argument: 'iterable'");
  return recurse(*bound[0]);
}

void Loop::end() {
  items = nullptr;
  recurse = nullptr;
  last_changed.clear();
}

Value make_function(std::string name, std::function<Value(Args&)> body) {
  auto function = std::make_shared<Function>();
  function->name = std::move(name);
  function->body = std::move(body);
  return Value::object(function);
}

}  // namespace fastgen::jinja
