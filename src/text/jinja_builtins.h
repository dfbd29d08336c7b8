// The tables of what a template can call: filters, tests, methods of strings, lists and dicts, global
// functions; and the operations on values that they and the interpreter share. All fail with RenderError.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_value.h"

namespace fastgen::jinja {

using Filter = Value (*)(const Value& input, Args& args);
using Test = bool (*)(const Value& input, Args& args);
using Method = Value (*)(const Value& self, Args& args);

// Null if there is none of that name.
Filter find_filter(std::string_view name);
Filter find_text_filter(std::string_view name);    // those on one string or value
Filter find_number_filter(std::string_view name);  // those on numbers
Filter find_list_filter(std::string_view name);    // those on rows of values
Test find_test(std::string_view name);
Method find_method(const Value& self, std::string_view name);
Method find_string_method(std::string_view name);
std::optional<Value> find_global(std::string_view name, const std::string& now);

// Arguments by position or name, in the order of `parameters`; null where not given. Fails on more or others.
std::vector<const Value*> bind(const Args& args, const char* function,
                               std::initializer_list<std::string_view> parameters);
std::int64_t int_argument(const Value* value, std::int64_t otherwise);  // fails on what is no int
bool bool_argument(const Value* value, bool otherwise);
const Text& text_argument(const Value& value, const char* what);  // fails on what is no string

// object.name and object[key] by Python's rules and those of Jinja2's sandbox; undefined where there is none.
Value get_attribute(const Value& object, const Value& name);
Value get_item(const Value& object, const Value& key);
// "a.b.0" from object, as the attribute arguments of filters have it; `otherwise` stands in for each part
// that is not there.
Value get_path(const Value& object, const Value& path, const Value* otherwise = nullptr);
Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step);
Value call(const Value& callee, Args& args);
Value add(const Value& a, const Value& b);
Value subtract(const Value& a, const Value& b);
Value multiply(const Value& a, const Value& b);
Value divide(const Value& a, const Value& b);
Value floor_divide(const Value& a, const Value& b);
Value modulo(const Value& a, const Value& b);
Value power(const Value& a, const Value& b);
Value negate(const Value& a);
bool contains(const Value& container, const Value& item);
// The values that a for loop over `value` sees; reads a generator to its end.
std::vector<Value> iterate(const Value& value);
std::size_t length(const Value& value);
// The characters of a string, one value each.
std::vector<Value> characters(const Text& text);
Value joined(const std::vector<Value>& items, const Text& separator, bool only_strings);
// `count` times the text; bounded.
Text repeated(const Text& text, std::int64_t count);

// "%s and %5.2f" % values, and "{} {name:>5}".format(...).
Text format_percent(const Text& format, const Value& values);
Text format_braces(const Text& format, const Args& args);

// strftime of "YYYY-MM-DD HH:MM:SS", or of the local time where `now` is empty.
std::string format_time(const Text& format, const std::string& now);

// Python's sorted(): stable, by keys that must be comparable.
std::vector<Value> sorted(std::vector<Value> items, const std::vector<Value>& keys, bool reverse);

}  // namespace fastgen::jinja
