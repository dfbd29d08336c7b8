// The values of a template: Python's, as far as templates see them. A Value is cheap to copy: strings,
// lists and dicts are shared and never change once made (namespaces, loops and generators do).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/jinja_limits.h"
#include "text/jinja_text.h"

namespace fastgen::jinja {

class Value;
struct Object;

enum class Type : std::uint8_t { kUndefined, kNone, kBool, kInt, kFloat, kString, kList, kDict, kObject };
// Python types that are all a row of values here. A generator can be read once.
enum class ListKind : std::uint8_t { kList, kTuple, kGenerator, kRange, kDictKeys, kDictValues, kDictItems };

// What is shared by values; gives its bytes back to the budget when the last one goes.
struct Heap {
  std::size_t charged = 0;
  Heap() = default;
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;
  virtual ~Heap() { release_bytes(charged); }
};

struct StringData : Heap {
  Text text;
};
struct ListData : Heap {
  ListKind kind = ListKind::kList;
  std::uint32_t depth = 1;  // 1 + the deepest item
  std::vector<Value> items;
  mutable std::size_t consumed = 0;  // of a generator
  bool is_group = false;             // a pair of groupby, whose sides also have names
};

// Why a value is not there: the sentence for the error, and the class that is raised.
struct UndefinedData : Heap {
  std::string message;
  const char* kind = "UndefinedError";
};

class Dict;

class Value {
 public:
  Value() = default;  // None
  static Value undefined(std::string message, const char* kind = "UndefinedError");
  static Value boolean(bool b);
  // `trusted`: its digits may be part of a control token (literals of the template, loop counters).
  static Value integer(std::int64_t i, bool trusted = false);
  static Value real(double d);
  static Value string(Text text);
  static Value string(std::string untrusted) { return string(Text(std::move(untrusted))); }
  static Value list(std::vector<Value> items, ListKind kind = ListKind::kList);
  static Value group(Value grouper, Value list);  // a tuple
  static Value dict(std::shared_ptr<Dict> dict);
  static Value object(std::shared_ptr<Object> object);

  Type type() const { return type_; }
  bool is(Type type) const { return type_ == type; }
  bool is_undefined() const { return type_ == Type::kUndefined; }
  bool is_none() const { return type_ == Type::kNone; }
  bool is_string() const { return type_ == Type::kString; }
  bool is_list() const { return type_ == Type::kList; }
  bool is_dict() const { return type_ == Type::kDict; }
  // A list or tuple in Python's sense, not one of the views that are kept as lists here.
  bool is_sequence() const { return is_list() && list_data().kind <= ListKind::kTuple; }
  bool is_integral() const {
    return type_ == Type::kInt || type_ == Type::kBool;
  }  // bool is an int in Python
  bool is_number() const { return is_integral() || type_ == Type::kFloat; }

  // Each only for its own type; as_int takes bools, as_double any number.
  bool as_bool() const { return number_.i != 0; }
  std::int64_t as_int() const { return number_.i; }
  double as_double() const { return type_ == Type::kFloat ? number_.d : static_cast<double>(number_.i); }
  bool is_trusted_number() const { return trusted_; }
  const Text& text() const { return static_cast<const StringData*>(heap_.get())->text; }
  const std::string& str() const { return text().bytes; }
  const ListData& list_data() const { return *static_cast<const ListData*>(heap_.get()); }
  const std::vector<Value>& items() const { return list_data().items; }
  const Dict& dict() const;
  Object& object() const;
  const UndefinedData& undefined_data() const { return *static_cast<const UndefinedData*>(heap_.get()); }
  const void* identity() const { return heap_.get(); }
  // Raises the error of an undefined value; does nothing for others.
  void require_defined() const;

  std::uint32_t depth() const;

 private:
  Type type_ = Type::kNone;
  bool trusted_ = false;
  union {
    std::int64_t i = 0;
    double d;
  } number_;
  std::shared_ptr<Heap> heap_;
};

// Keeps the order of insertion; a key that comes again replaces the value in its old place.
class Dict : public Heap {
 public:
  using Entry = std::pair<Value, Value>;
  const std::vector<Entry>& entries() const { return entries_; }
  std::size_t size() const { return entries_.size(); }
  const Value* find(std::string_view key) const;
  const Value* find(const Value& key) const;  // fails on lists and dicts, as Python does
  void set(const Value& key, Value value);
  std::uint32_t depth() const { return depth_; }

 private:
  std::optional<std::size_t> index_of(const std::string& hash_key) const;

  std::vector<Entry> entries_;
  std::unordered_map<std::string, std::size_t> index_;  // by hash key
  std::uint32_t depth_ = 1;
};

// The arguments of a call.
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Everything with behaviour of its own: functions, macros, bound methods, loops, namespaces.
struct Object : Heap {
  std::uint32_t depth = 0;  // 1 + the deepest value that it holds for good; see nesting_above
  virtual std::string type_name() const = 0;
  virtual std::optional<Value> attribute(std::string_view) { return std::nullopt; }
  virtual bool is_callable() const { return false; }
  virtual Value call(Args&);
  virtual std::string repr() const { return "<" + type_name() + ">"; }
};

// The depth of something that holds `value`; fails beyond kMaxNesting. So freeing values may recurse.
std::uint32_t nesting_above(const Value& value);

const char* python_type(const Value& value);  // "NoneType", "str", ...
std::string type_name(const Value& value);    // the same, with the names of objects
bool truthy(const Value& value);
bool equal(const Value& a, const Value& b);
bool less(const Value& a, const Value& b, const char* op = "<");  // fails where Python has no order
bool greater(const Value& a, const Value& b, const char* op = ">");
std::string float_repr(double d);
Text to_text(const Value& value);                 // str(value)
void append_text(Text& out, const Value& value);  // the same at the end of `out`
void append_repr(Text& out, const Value& value);  // repr(value)

}  // namespace fastgen::jinja
