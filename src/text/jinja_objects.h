// Values with behaviour of their own, made by templates: namespaces, loops, macros.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "text/jinja_builtins.h"
#include "text/jinja_value.h"

namespace fastgen::jinja {

// {% set ns = namespace(found=false) %}: the one thing that a template can change.
struct Namespace : Object {
  std::vector<std::pair<std::string, Value>> attributes;

  std::string type_name() const override { return "Namespace"; }
  std::optional<Value> attribute(std::string_view name) override;
  void set(const std::string& name, Value value);
};

// Namespaces made while one of these lives are emptied at its end: they may refer to themselves.
class NamespaceScope {
 public:
  NamespaceScope();
  ~NamespaceScope();
  NamespaceScope(const NamespaceScope&) = delete;
  NamespaceScope& operator=(const NamespaceScope&) = delete;

 private:
  std::size_t first_;
};
std::shared_ptr<Namespace> make_namespace();

// The variable `loop`.
struct Loop : Object, std::enable_shared_from_this<Loop> {
  const std::vector<Value>* items = nullptr;  // null when the loop has ended
  std::size_t idx = 0;
  std::size_t size = 0;
  int depth = 1;
  std::vector<Value> last_changed;
  bool has_changed = false;
  std::function<Value(const Value&)> recurse;  // empty unless the loop is recursive

  std::string type_name() const override { return "LoopContext"; }
  bool is_callable() const override { return true; }
  std::optional<Value> attribute(std::string_view name) override;
  Value call(Args& args) override;
  // The loop is over; values that still hold it refer to nothing that is gone, nor to each other.
  void end();
};

// A function in C++ with a name.
struct Function : Object {
  std::string name;
  std::function<Value(Args&)> body;

  std::string type_name() const override { return "function"; }
  bool is_callable() const override { return true; }
  Value call(Args& args) override { return body(args); }
};
Value make_function(std::string name, std::function<Value(Args&)> body);

}  // namespace fastgen::jinja
