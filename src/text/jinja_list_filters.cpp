// Filters on rows of values.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "text/jinja_builtins.h"

namespace fastgen::jinja {

namespace {

Value generator(std::vector<Value> items) { return Value::list(std::move(items), ListKind::kGenerator); }

// What values are sorted and compared by: an attribute of them, letters of either case being equal.
Value sort_key(const Value& item, const Value* attribute, bool case_sensitive) {
  Value key = attribute && !attribute->is_none() ? get_path(item, *attribute) : item;
  if (case_sensitive || !key.is_string()) return key;
  return Value::string(map_case(key.text(), Case::kLower));
}

std::vector<Value> sort_keys(const std::vector<Value>& items, const Value* attribute, bool case_sensitive) {
  std::vector<Value> keys;
  for (const Value& item : items) keys.push_back(sort_key(item, attribute, case_sensitive));
  return keys;
}

// By several attributes, "a,b", keys are lists.
std::vector<Value> sort_keys_of_all(const std::vector<Value>& items, const Value* attribute,
                                    bool case_sensitive) {
  if (!attribute || !attribute->is_string() || attribute->str().find(',') == std::string::npos)
    return sort_keys(items, attribute, case_sensitive);
  Args comma;
  comma.positional.push_back(Value::string(","));
  std::vector<Value> parts = find_string_method("split")(*attribute, comma).items();
  std::vector<Value> keys;
  for (const Value& item : items) {
    std::vector<Value> key;
    for (const Value& part : parts) key.push_back(sort_key(item, &part, case_sensitive));
    keys.push_back(Value::list(std::move(key)));
  }
  return keys;
}

Value length_of(const Value& input, Args& args) {
  bind(args, "length", {});
  return Value::integer(static_cast<std::int64_t>(length(input)));
}

Value first(const Value& input, Args& args) {
  bind(args, "do_first", {});
  if (input.is_list() && input.list_data().kind == ListKind::kGenerator) {
    const ListData& list = input.list_data();
    if (list.consumed < list.items.size()) return list.items[list.consumed++];
  } else if (input.is_string() && !input.str().empty()) {
    return get_item(input, Value::integer(0));
  }
  std::vector<Value> items = iterate(input);
  return items.empty() ? Value::undefined("No first item, sequence was empty.") : items[0];
}

Value last(const Value& input, Args& args) {
  bind(args, "do_last", {});
  if (input.is_list() && input.list_data().kind == ListKind::kGenerator)
    fail("TypeError", "'generator' object is not reversible");
  std::vector<Value> items = iterate(input);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value list(const Value& input, Args& args) {
  bind(args, "do_list", {});
  return Value::list(iterate(input));
}

Value items(const Value& input, Args& args) {
  bind(args, "do_items", {});
  if (input.is_undefined()) return generator({});
  if (!input.is_dict()) fail("TypeError", "Can only get item pairs from a mapping.");
  Args none;
  return generator(find_method(input, "items")(input, none).items());
}

Value join(const Value& input, Args& args) {
  auto bound = bind(args, "do_join", {"d", "attribute"});
  Text separator = bound[0] ? to_text(*bound[0]) : Text();
  std::vector<Value> parts = iterate(input);
  if (bound[1] && !bound[1]->is_none())
    for (Value& part : parts) part = get_path(part, *bound[1]);
  return joined(parts, separator, false);
}

Value reverse(const Value& input, Args& args) {
  bind(args, "do_reverse", {});
  input.require_defined();
  std::vector<Value> values = iterate(input);
  std::reverse(values.begin(), values.end());
  return input.is_string() ? joined(values, Text(), true) : generator(std::move(values));
}

Value sort(const Value& input, Args& args) {
  auto bound = bind(args, "do_sort", {"reverse", "case_sensitive", "attribute"});
  std::vector<Value> values = iterate(input);
  std::vector<Value> keys = sort_keys_of_all(values, bound[2], bool_argument(bound[1], false));
  return Value::list(sorted(std::move(values), keys, bool_argument(bound[0], false)));
}

Value dictsort(const Value& input, Args& args) {
  auto bound = bind(args, "do_dictsort", {"case_sensitive", "by", "reverse"});
  std::string by = bound[1] ? text_argument(*bound[1], "by").bytes : "key";
  if (by != "key" && by != "value")
    fail("FilterArgumentError", "You can only sort by either \"key\" or \"value\"");
  input.require_defined();
  if (!input.is_dict())
    fail("AttributeError", fmt::format("'{}' object has no attribute 'items'", type_name(input)));
  Args none;
  std::vector<Value> pairs = find_method(input, "items")(input, none).items();
  Value idx = Value::integer(by == "key" ? 0 : 1);
  std::vector<Value> keys = sort_keys(pairs, &idx, bool_argument(bound[0], false));
  return Value::list(sorted(std::move(pairs), keys, bool_argument(bound[2], false)));
}

Value unique(const Value& input, Args& args) {
  auto bound = bind(args, "do_unique", {"case_sensitive", "attribute"});
  Dict seen;
  std::vector<Value> out;
  for (const Value& item : iterate(input)) {
    Value key = sort_key(item, bound[1], bool_argument(bound[0], false));
    if (seen.find(key)) continue;
    seen.set(key, Value());
    out.push_back(item);
  }
  return generator(std::move(out));
}

Value extreme(const Value& input, Args& args, const char* name, bool wants_max) {
  auto bound = bind(args, name, {"case_sensitive", "attribute"});
  std::vector<Value> values = iterate(input);
  if (values.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  std::vector<Value> keys = sort_keys(values, bound[1], bool_argument(bound[0], false));
  std::size_t best = 0;
  for (std::size_t i = 1; i < values.size(); ++i)
    if (wants_max ? greater(keys[i], keys[best]) : less(keys[i], keys[best])) best = i;
  return values[best];
}
Value max(const Value& input, Args& args) { return extreme(input, args, "do_max", true); }
Value min(const Value& input, Args& args) { return extreme(input, args, "do_min", false); }

Value sum(const Value& input, Args& args) {
  auto bound = bind(args, "do_sum", {"attribute", "start"});
  Value total = bound[1] ? *bound[1] : Value::integer(0);
  if (total.is_string()) fail("TypeError", "sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : iterate(input))
    total = add(total, bound[0] && !bound[0]->is_none() ? get_path(item, *bound[0]) : item);
  return total;
}

Value batch(const Value& input, Args& args) {
  auto bound = bind(args, "do_batch", {"linecount", "fill_with"});
  if (!bound[0]) fail("TypeError", "do_batch() missing 1 required positional argument: 'linecount'");
  std::int64_t size = int_argument(bound[0], 1);
  std::vector<Value> out;
  std::vector<Value> row;
  for (const Value& item : iterate(input)) {
    if (static_cast<std::int64_t>(row.size()) == size) out.push_back(Value::list(std::exchange(row, {})));
    row.push_back(item);
  }
  if (row.empty()) return generator(std::move(out));
  if (bound[1] && !bound[1]->is_none() && static_cast<std::int64_t>(row.size()) < size) {
    if (size > kMaxRange) fail("LimitError", "a list grows too long");
    row.resize(static_cast<std::size_t>(size), *bound[1]);
  }
  out.push_back(Value::list(std::move(row)));
  return generator(std::move(out));
}

Value slice(const Value& input, Args& args) {
  auto bound = bind(args, "do_slice", {"slices", "fill_with"});
  std::int64_t slices = int_argument(bound[0], 0);
  if (slices == 0) fail("ZeroDivisionError", "integer division or modulo by zero");
  if (slices < 0) return generator({});
  if (slices > kMaxRange) fail("LimitError", "a list grows too long");
  std::vector<Value> values = iterate(input);
  std::size_t count = static_cast<std::size_t>(slices);
  std::size_t per_slice = values.size() / count;
  std::size_t longer = values.size() % count;
  std::vector<Value> out;
  for (std::size_t i = 0, begin = 0; i < count; ++i) {
    std::size_t end = begin + per_slice + (i < longer ? 1 : 0);
    std::vector<Value> part(values.begin() + static_cast<std::ptrdiff_t>(begin),
                            values.begin() + static_cast<std::ptrdiff_t>(end));
    if (bound[1] && !bound[1]->is_none() && i >= longer) part.push_back(*bound[1]);
    out.push_back(Value::list(std::move(part)));
    begin = end;
  }
  return generator(std::move(out));
}

Value groupby(const Value& input, Args& args) {
  auto bound = bind(args, "do_groupby", {"attribute", "default", "case_sensitive"});
  if (!bound[0]) fail("TypeError", "do_groupby() missing 1 required positional argument: 'attribute'");
  bool case_sensitive = bool_argument(bound[2], false);
  std::vector<Value> pairs;  // (item, its own key)
  std::vector<Value> keys;
  for (const Value& item : iterate(input)) {
    Value key = get_path(item, *bound[0], bound[1]);
    pairs.push_back(Value::list({item, key}));
    keys.push_back(sort_key(key, nullptr, case_sensitive));
  }
  std::vector<Value> out;
  std::vector<Value> group;
  Value group_key;
  Value own_key;
  auto close = [&] {
    if (!group.empty())
      out.push_back(Value::group(own_key, Value::list(std::exchange(group, {}))));
  };
  for (const Value& pair : sorted(std::move(pairs), keys, false)) {
    Value key = sort_key(pair.items()[1], nullptr, case_sensitive);
    if (group.empty() || !equal(key, group_key)) {
      close();
      group_key = key;
      own_key = pair.items()[1];
    }
    group.push_back(pair.items()[0]);
  }
  close();
  return Value::list(std::move(out));
}

const Value* take_named(Args& args, std::string_view name) {
  for (const auto& [key, value] : args.named)
    if (key == name) return &value;
  return nullptr;
}

// Jinja2 looks at nothing else when there is nothing to map: None passes, too.
Value map(const Value& input, Args& args) {
  std::vector<Value> out;
  if (!truthy(input)) return generator({});
  if (args.positional.empty() && take_named(args, "attribute")) {
    for (const auto& arg : args.named)
      if (arg.first != "attribute" && arg.first != "default")
        fail("FilterArgumentError", fmt::format("Unexpected keyword argument '{}'", arg.first));
    const Value& attribute = *take_named(args, "attribute");
    const Value* otherwise = take_named(args, "default");
    for (const Value& item : iterate(input)) out.push_back(get_path(item, attribute, otherwise));
    return generator(std::move(out));
  }
  if (args.positional.empty()) fail("FilterArgumentError", "map requires a filter argument");
  const std::string& name = text_argument(args.positional[0], "the filter's name").bytes;
  Filter filter = find_filter(name);
  if (!filter) fail("TemplateRuntimeError", fmt::format("No filter named '{}'.", name));
  Args rest{{args.positional.begin() + 1, args.positional.end()}, args.named};
  for (const Value& item : iterate(input)) out.push_back(filter(item, rest));
  return generator(std::move(out));
}

// select, reject, selectattr and rejectattr: keep what passes a test (or, without one, is true).
Value kept(const Value& input, Args& args, bool wanted, bool by_attribute) {
  if (!truthy(input)) return generator({});
  std::size_t used = 0;
  if (by_attribute && args.positional.empty())
    fail("FilterArgumentError", "Missing parameter for attribute name");
  Value attribute = by_attribute ? args.positional[used++] : Value();
  Test test = nullptr;
  if (used < args.positional.size()) {
    const std::string& name = text_argument(args.positional[used++], "the test's name").bytes;
    test = find_test(name);
    if (!test) fail("TemplateRuntimeError", fmt::format("No test named '{}'.", name));
  }
  Args rest{{args.positional.begin() + static_cast<std::ptrdiff_t>(used), args.positional.end()}, args.named};
  std::vector<Value> out;
  for (const Value& item : iterate(input)) {
    Value subject = by_attribute ? get_path(item, attribute) : item;
    if ((test ? test(subject, rest) : truthy(subject)) == wanted) out.push_back(item);
  }
  return generator(std::move(out));
}
Value select(const Value& input, Args& args) { return kept(input, args, true, false); }
Value reject(const Value& input, Args& args) { return kept(input, args, false, false); }
Value selectattr(const Value& input, Args& args) { return kept(input, args, true, true); }
Value rejectattr(const Value& input, Args& args) { return kept(input, args, false, true); }

Value attr(const Value& input, Args& args) {
  auto bound = bind(args, "do_attr", {"name"});
  if (!bound[0]) fail("TypeError", "do_attr() missing 1 required positional argument: 'name'");
  Value found = get_attribute(input, Value::string(to_text(*bound[0])));
  // Unlike a dot, it does not look into dicts.
  bool is_item = input.is_dict() && !find_method(input, to_text(*bound[0]).bytes);
  if (!is_item) return found;
  return Value::undefined(fmt::format("'dict object' has no attribute '{}'", to_text(*bound[0]).bytes));
}

}  // namespace

Filter find_list_filter(std::string_view name) {
  static const std::map<std::string_view, Filter> kFilters = {{"attr", attr},
                                                              {"batch", batch},
                                                              {"count", length_of},
                                                              {"dictsort", dictsort},
                                                              {"first", first},
                                                              {"groupby", groupby},
                                                              {"items", items},
                                                              {"join", join},
                                                              {"last", last},
                                                              {"length", length_of},
                                                              {"list", list},
                                                              {"map", map},
                                                              {"max", max},
                                                              {"min", min},
                                                              {"reject", reject},
                                                              {"rejectattr", rejectattr},
                                                              {"reverse", reverse},
                                                              {"select", select},
                                                              {"selectattr", selectattr},
                                                              {"slice", slice},
                                                              {"sort", sort},
                                                              {"sum", sum},
                                                              {"unique", unique}};
  auto it = kFilters.find(name);
  return it == kFilters.end() ? nullptr : it->second;
}

}  // namespace fastgen::jinja
