// Methods of lists and dicts (those that change nothing), and which methods a value has.
#include <fmt/format.h>

#include "text/jinja_builtins.h"

namespace fastgen::jinja {

namespace {

Value list_index(const Value& self, Args& args) {
  auto bound = bind(args, "index", {"value"});
  if (!bound[0]) fail("TypeError", "index expected at least 1 argument, got 0");
  for (std::size_t i = 0; i < self.items().size(); ++i)
    if (equal(self.items()[i], *bound[0])) return Value::integer(static_cast<std::int64_t>(i));
  Text repr;
  append_repr(repr, *bound[0]);
  fail("ValueError", fmt::format("{} is not in list", repr.bytes));
}

Value list_count(const Value& self, Args& args) {
  auto bound = bind(args, "count", {"value"});
  if (!bound[0]) fail("TypeError", "count() takes exactly one argument (0 given)");
  std::int64_t count = 0;
  for (const Value& item : self.items()) count += equal(item, *bound[0]);
  return Value::integer(count);
}

Value list_copy(const Value& self, Args& args) {
  bind(args, "copy", {});
  return self;  // nothing can change either of them
}

Value dict_keys(const Value& self, Args& args) {
  bind(args, "keys", {});
  return Value::list(iterate(self), ListKind::kDictKeys);
}

Value dict_values(const Value& self, Args& args) {
  bind(args, "values", {});
  std::vector<Value> values;
  for (const auto& entry : self.dict().entries()) values.push_back(entry.second);
  return Value::list(std::move(values), ListKind::kDictValues);
}

Value dict_items(const Value& self, Args& args) {
  bind(args, "items", {});
  std::vector<Value> pairs;
  for (const auto& [key, value] : self.dict().entries())
    pairs.push_back(Value::list({key, value}, ListKind::kTuple));
  return Value::list(std::move(pairs), ListKind::kDictItems);
}

Value dict_get(const Value& self, Args& args) {
  auto bound = bind(args, "get", {"key", "default"});
  if (!bound[0]) fail("TypeError", "get expected at least 1 argument, got 0");
  if (const Value* found = self.dict().find(*bound[0])) return *found;
  return bound[1] ? *bound[1] : Value();
}

}  // namespace

Method find_method(const Value& self, std::string_view name) {
  if (self.is_string()) return find_string_method(name);
  if (self.is_dict()) {
    if (name == "get") return dict_get;
    if (name == "items") return dict_items;
    if (name == "keys") return dict_keys;
    if (name == "values") return dict_values;
    return name == "copy" ? list_copy : nullptr;
  }
  if (!self.is_list() || self.list_data().kind > ListKind::kTuple) return nullptr;
  if (name == "index") return list_index;
  if (name == "count") return list_count;
  return name == "copy" && self.list_data().kind == ListKind::kList ? list_copy : nullptr;
}

}  // namespace fastgen::jinja
