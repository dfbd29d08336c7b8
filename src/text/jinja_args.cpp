// How built-in functions take their arguments, and the sort that several of them share.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "text/jinja_builtins.h"

namespace fastgen::jinja {

std::vector<const Value*> bind(const Args& args, const char* function,
                               std::initializer_list<std::string_view> parameters) {
  std::vector<const Value*> bound(parameters.size(), nullptr);
  if (args.positional.size() > parameters.size())
    fail("TypeError", fmt::format("{}() takes at most {} arguments ({} given)", function, parameters.size(),
                                  args.positional.size()));
  for (std::size_t i = 0; i < args.positional.size(); ++i) bound[i] = &args.positional[i];
  for (const auto& [name, value] : args.named) {
    auto it = std::find(parameters.begin(), parameters.end(), name);
    if (it == parameters.end())
      fail("TypeError", fmt::format("{}() got an unexpected keyword argument '{}'", function, name));
    auto idx = static_cast<std::size_t>(it - parameters.begin());
    if (bound[idx])
      fail("TypeError", fmt::format("{}() got multiple values for argument '{}'", function, name));
    bound[idx] = &value;
  }
  return bound;
}

std::int64_t int_argument(const Value* value, std::int64_t otherwise) {
  if (!value || value->is_none()) return otherwise;
  value->require_defined();
  if (!value->is_integral())
    fail("TypeError", fmt::format("'{}' object cannot be interpreted as an integer", type_name(*value)));
  return value->as_int();
}

bool bool_argument(const Value* value, bool otherwise) { return value ? truthy(*value) : otherwise; }

const Text& text_argument(const Value& value, const char* what) {
  value.require_defined();
  if (!value.is_string()) fail("TypeError", fmt::format("{} must be str, not {}", what, type_name(value)));
  return value.text();
}

std::vector<Value> sorted(std::vector<Value> items, const std::vector<Value>& keys, bool reverse) {
  std::vector<std::size_t> order(items.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  // std::stable_sort keeps its own memory in order when a comparison throws.
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return reverse ? less(keys[b], keys[a]) : less(keys[a], keys[b]);
  });
  std::vector<Value> out;
  out.reserve(items.size());
  for (std::size_t i : order) out.push_back(std::move(items[i]));
  return out;
}

}  // namespace fastgen::jinja
