// Functions that every template has: Jinja2's own, transformers' raise_exception and strftime_now, and one of ours for built-in formats.
#include <fmt/format.h>

#include <cstdio>
#include <ctime>

#include "text/jinja_builtins.h"
#include "text/jinja_json.h"
#include "text/jinja_objects.h"

namespace fastgen::jinja {

namespace {

Value range(Args& args) {
  auto bound = bind(args, "range", {"start", "stop", "step"});
  if (!bound[0]) fail("TypeError", "range expected at least 1 argument, got 0");
  std::int64_t start = bound[1] ? int_argument(bound[0], 0) : 0;
  std::int64_t stop = int_argument(bound[1] ? bound[1] : bound[0], 0);
  std::int64_t step = int_argument(bound[2], 1);
  if (step == 0) fail("ValueError", "range() arg 3 must not be zero");
  // Unsigned, so that the distance between any two integers fits.
  std::uint64_t distance = step > 0 ? static_cast<std::uint64_t>(stop) - static_cast<std::uint64_t>(start)
                                    : static_cast<std::uint64_t>(start) - static_cast<std::uint64_t>(stop);
  std::uint64_t stride = step > 0 ? static_cast<std::uint64_t>(step) : 0 - static_cast<std::uint64_t>(step);
  bool empty = step > 0 ? start >= stop : start <= stop;
  std::uint64_t count = empty ? 0 : (distance - 1) / stride + 1;
  if (count > static_cast<std::uint64_t>(kMaxRange))
    fail("OverflowError",
         fmt::format("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMaxRange));
  charge_steps(count);
  std::vector<Value> items;
  for (std::uint64_t i = 0; i < count; ++i)
    items.push_back(Value::integer(start + static_cast<std::int64_t>(i) * step, true));
  return Value::list(std::move(items), ListKind::kRange);
}

Value dict(Args& args) {
  auto made = std::make_shared<Dict>();
  if (args.positional.size() > 1) fail("TypeError", "dict expected at most 1 argument");
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    if (from.is_dict()) {
      for (const auto& [key, value] : from.dict().entries()) made->set(key, value);
    } else {
      for (const Value& pair : iterate(from)) {
        std::vector<Value> sides = iterate(pair);
        if (sides.size() != 2) fail("ValueError", "dictionary update sequence element has not length 2");
        made->set(sides[0], sides[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) made->set(Value::string(name), value);
  return Value::dict(std::move(made));
}

Value make_namespace_of(Args& args) {
  auto made = make_namespace();
  Value initial = dict(args);
  for (const auto& [key, value] : initial.dict().entries())
    made->set(text_argument(key, "a name").bytes, value);
  return Value::object(made);
}

struct Joiner : Object {
  Value separator;
  bool used = false;
  std::string type_name() const override { return "Joiner"; }
  bool is_callable() const override { return true; }
  Value call(Args&) override { return std::exchange(used, true) ? separator : Value::string(Text()); }
};

Value joiner(Args& args) {
  auto bound = bind(args, "Joiner", {"sep"});
  auto made = std::make_shared<Joiner>();
  made->separator = bound[0] ? *bound[0] : Value::string(Text::from_template(", "));
  made->depth = nesting_above(made->separator);
  return Value::object(made);
}

struct Cycler : Object, std::enable_shared_from_this<Cycler> {
  std::vector<Value> items;
  std::size_t at = 0;
  std::string type_name() const override { return "Cycler"; }
  std::optional<Value> attribute(std::string_view name) override {
    if (name == "current") return items[at];
    if (name != "next" && name != "reset") return std::nullopt;
    bool resets = name == "reset";
    return make_function(std::string(name), [self = shared_from_this(), resets](Args&) {
      if (resets) return self->at = 0, Value();
      Value current = self->items[self->at];
      self->at = (self->at + 1) % self->items.size();
      return current;
    });
  }
};

Value cycler(Args& args) {
  if (args.positional.empty()) fail("RuntimeError", "at least one item has to be provided");
  auto made = std::make_shared<Cycler>();
  made->charged = charge_bytes(sizeof(Cycler) + args.positional.size() * sizeof(Value));
  for (const Value& item : args.positional) made->depth = std::max(made->depth, nesting_above(item));
  made->items = args.positional;
  return Value::object(made);
}

Value raise_exception(Args& args) {
  auto bound = bind(args, "raise_exception", {"message"});
  if (!bound[0]) fail("TypeError", "raise_exception() missing 1 required positional argument: 'message'");
  fail("TemplateError", to_text(*bound[0]).bytes);
}

// What Mistral's format makes of a tool's arguments and results: the value of a text that is JSON, else the text itself.
Value json_or_text(Args& args) {
  auto bound = bind(args, "json_or_text", {"value"});
  if (!bound[0] || !bound[0]->is_string()) return bound[0] ? *bound[0] : Value();
  return try_parse_json(bound[0]->str()).value_or(*bound[0]);
}

std::tm parse_time(const std::string& now) {
  std::tm time{};
  if (now.empty()) {
    std::time_t seconds = std::time(nullptr);
    localtime_r(&seconds, &time);
    return time;
  }
  int read = std::sscanf(now.c_str(), "%4d-%2d-%2d %2d:%2d:%2d", &time.tm_year, &time.tm_mon, &time.tm_mday,
                         &time.tm_hour, &time.tm_min, &time.tm_sec);
  if (read != 6) fail("ValueError", "the time must read YYYY-MM-DD HH:MM:SS");
  time.tm_year -= 1900;
  time.tm_mon -= 1;
  timegm(&time);  // fills in the day of the week and of the year
  return time;
}

}  // namespace

// The format is the template's own, or a value's; strftime writes no more than asked for.
std::string format_time(const Text& format, const std::string& now) {
  std::tm time = parse_time(now);
  if (format.size() == 0) return "";
  if (format.size() > 4096) fail("ValueError", "the time's format is too long");
  std::string out(format.size() * 4 + 256, '\0');
  // A leading character, so that an empty result is no failure.
  std::size_t size = std::strftime(out.data(), out.size(), ("." + format.bytes).c_str(), &time);
  if (size == 0) fail("ValueError", "the time's format is too long");
  return out.substr(1, size - 1);
}

std::optional<Value> find_global(std::string_view name, const std::string& now) {
  if (name == "range") return make_function("range", range);
  if (name == "dict") return make_function("dict", dict);
  if (name == "namespace") return make_function("namespace", make_namespace_of);
  if (name == "joiner") return make_function("joiner", joiner);
  if (name == "cycler") return make_function("cycler", cycler);
  if (name == "raise_exception") return make_function("raise_exception", raise_exception);
  if (name == "json_or_text") return make_function("json_or_text", json_or_text);
  if (name != "strftime_now") return std::nullopt;
  return make_function("strftime_now", [now](Args& args) {
    auto bound = bind(args, "strftime_now", {"format"});
    if (!bound[0]) fail("TypeError", "strftime_now() missing 1 required positional argument: 'format'");
    const Text& format = text_argument(*bound[0], "strftime() argument 1");
    return Value::string(Text(format_time(format, now)));
  });
}

}  // namespace fastgen::jinja
