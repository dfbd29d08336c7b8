// Python's methods of strings.
#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <map>

#include "text/jinja_builtins.h"
#include "text/jinja_cutting.h"

namespace fastgen::jinja {

namespace {

// ---- finding

struct Window {  // the bytes [begin, end) that s[start:stop] has
  std::size_t begin;
  std::size_t end;
};

Window window(const std::string& s, const Value* start, const Value* stop) {
  if (!start && !stop) return {0, s.size()};
  auto size = static_cast<std::int64_t>(code_points(s));
  auto place = [&](const Value* value, std::int64_t otherwise) {
    std::int64_t i = int_argument(value, otherwise);
    if (i < 0) i = std::max<std::int64_t>(i + size, 0);
    return byte_offset(s, static_cast<std::size_t>(std::min(i, size)));
  };
  return {place(start, 0), place(stop, size)};
}

std::int64_t find_index(const Value& self, Args& args, const char* name, bool from_right) {
  auto bound = bind(args, name, {"sub", "start", "end"});
  if (!bound[0]) fail("TypeError", fmt::format("{}() takes at least 1 argument (0 given)", name));
  const std::string& s = self.str();
  const std::string& sub = text_argument(*bound[0], "the first argument").bytes;
  charge_steps(s.size() / 256);
  Window w = window(s, bound[1], bound[2]);
  if (w.begin > w.end) return -1;
  std::string_view part = std::string_view(s).substr(w.begin, w.end - w.begin);
  std::size_t at = from_right ? part.rfind(sub) : part.find(sub);
  if (at == part.npos) return -1;
  return static_cast<std::int64_t>(code_points(std::string_view(s).substr(0, w.begin + at)));
}

Value find(const Value& self, Args& args) { return Value::integer(find_index(self, args, "find", false)); }
Value rfind(const Value& self, Args& args) { return Value::integer(find_index(self, args, "rfind", true)); }

Value found_or_fail(std::int64_t index) {
  if (index < 0) fail("ValueError", "substring not found");
  return Value::integer(index);
}
Value index(const Value& self, Args& args) { return found_or_fail(find_index(self, args, "index", false)); }
Value rindex(const Value& self, Args& args) { return found_or_fail(find_index(self, args, "rindex", true)); }

Value count(const Value& self, Args& args) {
  auto bound = bind(args, "count", {"sub", "start", "end"});
  if (!bound[0]) fail("TypeError", "count() takes at least 1 argument (0 given)");
  const std::string& s = self.str();
  const std::string& sub = text_argument(*bound[0], "the first argument").bytes;
  charge_steps(s.size() / 256);
  Window w = window(s, bound[1], bound[2]);
  if (w.begin > w.end) return Value::integer(0);
  std::string_view part = std::string_view(s).substr(w.begin, w.end - w.begin);
  if (sub.empty()) return Value::integer(static_cast<std::int64_t>(code_points(part)) + 1);
  std::int64_t found = 0;
  for (std::size_t at = part.find(sub); at != part.npos; at = part.find(sub, at + sub.size())) ++found;
  return Value::integer(found);
}

bool has_affix(std::string_view s, const Value& affix, bool at_end, const char* name) {
  if (!affix.is_string()) {
    affix.require_defined();
    fail("TypeError",
         fmt::format("{} first arg must be str or a tuple of str, not {}", name, type_name(affix)));
  }
  return at_end ? s.ends_with(affix.str()) : s.starts_with(affix.str());
}

Value has_any_affix(const Value& self, Args& args, bool at_end, const char* name) {
  auto bound = bind(args, name, {"prefix", "start", "end"});
  if (!bound[0]) fail("TypeError", fmt::format("{}() takes at least 1 argument (0 given)", name));
  Window w = window(self.str(), bound[1], bound[2]);
  if (w.begin > w.end) return Value::boolean(false);
  std::string_view part = std::string_view(self.str()).substr(w.begin, w.end - w.begin);
  const Value& affix = *bound[0];
  if (!affix.is_list() || affix.list_data().kind != ListKind::kTuple)
    return Value::boolean(has_affix(part, affix, at_end, name));
  for (const Value& one : affix.items())
    if (has_affix(part, one, at_end, name)) return Value::boolean(true);
  return Value::boolean(false);
}
Value startswith(const Value& self, Args& args) { return has_any_affix(self, args, false, "startswith"); }
Value endswith(const Value& self, Args& args) { return has_any_affix(self, args, true, "endswith"); }

// ---- changing

Value upper(const Value& self, Args& args) {
  bind(args, "upper", {});
  charge_steps(self.str().size() / 16);
  return Value::string(map_case(self.text(), Case::kUpper));
}
Value lower(const Value& self, Args& args) {
  bind(args, "lower", {});
  charge_steps(self.str().size() / 16);
  return Value::string(map_case(self.text(), Case::kLower));
}

Value capitalize(const Value& self, Args& args) {
  bind(args, "capitalize", {});
  const Text& text = self.text();
  charge_steps(text.size() / 16);
  std::size_t first = byte_offset(text.bytes, 1);
  Text out;
  append_mapped(out, text, 0, first, Case::kTitle);
  append_mapped(out, text, first, text.size(), Case::kLower);
  return Value::string(std::move(out));
}

bool is_cased(char32_t c) {
  auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LT;
}

Value title(const Value& self, Args& args) {
  bind(args, "title", {});
  const Text& text = self.text();
  charge_steps(text.size() / 8);
  Text out;
  bool in_word = false;
  for (std::size_t pos = 0; pos < text.size();) {
    std::size_t begin = pos;
    char32_t c = next_code_point(text.bytes, pos);
    append_mapped(out, text, begin, pos, in_word ? Case::kLower : Case::kTitle);
    in_word = is_cased(c);
  }
  return Value::string(std::move(out));
}

Value swapcase(const Value& self, Args& args) {
  bind(args, "swapcase", {});
  const Text& text = self.text();
  charge_steps(text.size() / 8);
  Text out;
  for (std::size_t pos = 0; pos < text.size();) {
    std::size_t begin = pos;
    char32_t c = next_code_point(text.bytes, pos);
    bool is_upper = utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_LU;
    append_mapped(out, text, begin, pos, is_upper ? Case::kLower : Case::kUpper);
  }
  return Value::string(std::move(out));
}

// "" matches before every character and at the end.
Value replace_empty(const Text& text, const Text& by, std::int64_t max) {
  Text out;
  std::size_t pos = 0;
  while (max-- != 0) {
    charge_steps(1);
    out.append(by);
    if (pos == text.size()) return Value::string(std::move(out));
    std::size_t begin = pos;
    next_code_point(text.bytes, pos);
    out.append(text, begin, pos);
  }
  out.append(text, pos, text.size());
  return Value::string(std::move(out));
}

Value replace(const Value& self, Args& args) {
  auto bound = bind(args, "replace", {"old", "new", "count"});
  if (!bound[0] || !bound[1]) fail("TypeError", "replace expected at least 2 arguments");
  const Text& text = self.text();
  const Text& old = text_argument(*bound[0], "replace() argument 1");
  const Text& by = text_argument(*bound[1], "replace() argument 2");
  std::int64_t max = int_argument(bound[2], -1);
  charge_steps(text.size() / 64);
  if (old.size() == 0) return replace_empty(text, by, max);
  Text out;
  std::size_t begin = 0;
  while (max-- != 0) {
    std::size_t at = text.bytes.find(old.bytes, begin);
    if (at == std::string::npos) break;
    charge_steps(1);
    out.append(text, begin, at);
    out.append(by);
    begin = at + old.size();
  }
  out.append(text, begin, text.size());
  return Value::string(std::move(out));
}

Value join(const Value& self, Args& args) {
  auto bound = bind(args, "join", {"iterable"});
  if (!bound[0]) fail("TypeError", "join() takes exactly one argument (0 given)");
  if (!bound[0]->is_string() && !bound[0]->is_list() && !bound[0]->is_dict() && !bound[0]->is_undefined())
    fail("TypeError", "can only join an iterable");
  return joined(iterate(*bound[0]), self.text(), true);
}

Value format(const Value& self, Args& args) { return Value::string(format_braces(self.text(), args)); }

enum class Side { kLeft, kRight, kBoth };

Value padded(const Value& self, Args& args, const char* name, Side side) {
  auto bound = bind(args, name, {"width", "fillchar"});
  if (!bound[0]) fail("TypeError", fmt::format("{} expected at least 1 argument, got 0", name));
  std::int64_t missing = int_argument(bound[0], 0) - static_cast<std::int64_t>(length(self));
  if (missing <= 0) return self;
  Text fill = bound[1] ? text_argument(*bound[1], "the fill character") : Text(" ");
  if (code_points(fill.bytes) != 1)
    fail("TypeError", "The fill character must be exactly one character long");
  std::int64_t width = int_argument(bound[0], 0);
  std::int64_t left = side == Side::kLeft    ? 0
                      : side == Side::kRight ? missing
                                             : missing / 2 + (missing & width & 1);
  Text out = repeated(fill, left);
  out.append(self.text());
  out.append(repeated(fill, missing - left));
  return Value::string(std::move(out));
}
Value ljust(const Value& self, Args& args) { return padded(self, args, "ljust", Side::kLeft); }
Value rjust(const Value& self, Args& args) { return padded(self, args, "rjust", Side::kRight); }
Value center(const Value& self, Args& args) { return padded(self, args, "center", Side::kBoth); }

Value zfill(const Value& self, Args& args) {
  auto bound = bind(args, "zfill", {"width"});
  std::int64_t missing = int_argument(bound[0], 0) - static_cast<std::int64_t>(length(self));
  if (missing <= 0) return self;
  bool has_sign = self.str().starts_with('-') || self.str().starts_with('+');
  Text out = self.text().slice(0, has_sign);
  out.append(repeated(Text("0"), missing));
  out.append(self.text(), has_sign, self.str().size());
  return Value::string(std::move(out));
}

// ---- asking

using IsOne = bool (*)(char32_t);

int category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }
bool is_alpha(char32_t c) {
  return category(c) >= UTF8PROC_CATEGORY_LU && category(c) <= UTF8PROC_CATEGORY_LO;
}
bool is_digit(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_numeric(char32_t c) {
  return category(c) >= UTF8PROC_CATEGORY_ND && category(c) <= UTF8PROC_CATEGORY_NO;
}
bool is_alnum(char32_t c) { return is_alpha(c) || is_numeric(c); }

template <IsOne is_one>
Value is_all(const Value& self, Args& args) {
  bind(args, "is...", {});
  std::string_view s = self.str();
  charge_steps(s.size() / 16);
  for (std::size_t pos = 0; pos < s.size();)
    if (!is_one(next_code_point(s, pos))) return Value::boolean(false);
  return Value::boolean(!s.empty());
}

// There is a cased letter, and all of them have this case.
template <int wanted, int other>
Value has_case(const Value& self, Args& args) {
  bind(args, "is...", {});
  std::string_view s = self.str();
  charge_steps(s.size() / 16);
  bool found = false;
  for (std::size_t pos = 0; pos < s.size();) {
    int kind = category(next_code_point(s, pos));
    if (kind == other || kind == UTF8PROC_CATEGORY_LT) return Value::boolean(false);
    found |= kind == wanted;
  }
  return Value::boolean(found);
}

Value istitle(const Value& self, Args& args) {
  bind(args, "istitle", {});
  Args none;
  bool any = std::any_of(self.str().begin(), self.str().end(),
                         [](char c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; });
  return Value::boolean(any && title(self, none).str() == self.str());
}

}  // namespace

Method find_string_method(std::string_view name) {
  static const std::map<std::string_view, Method> kMethods = {
      {"capitalize", capitalize},
      {"center", center},
      {"count", count},
      {"endswith", endswith},
      {"find", find},
      {"format", format},
      {"index", index},
      {"isalnum", is_all<is_alnum>},
      {"isalpha", is_all<is_alpha>},
      {"isdecimal", is_all<is_digit>},
      {"isdigit", is_all<is_digit>},
      {"isnumeric", is_all<is_numeric>},
      {"isspace", is_all<is_space>},
      {"istitle", istitle},
      {"islower", has_case<UTF8PROC_CATEGORY_LL, UTF8PROC_CATEGORY_LU>},
      {"isupper", has_case<UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LL>},
      {"join", join},
      {"ljust", ljust},
      {"lower", lower},
      {"casefold", lower},
      {"lstrip", lstrip},
      {"partition", partition},
      {"removeprefix", removeprefix},
      {"removesuffix", removesuffix},
      {"replace", replace},
      {"rfind", rfind},
      {"rindex", rindex},
      {"rjust", rjust},
      {"rpartition", rpartition},
      {"rsplit", rsplit},
      {"rstrip", rstrip},
      {"split", split},
      {"splitlines", splitlines},
      {"startswith", startswith},
      {"strip", strip},
      {"swapcase", swapcase},
      {"title", title},
      {"upper", upper},
      {"zfill", zfill}};
  auto it = kMethods.find(name);
  return it == kMethods.end() ? nullptr : it->second;
}

}  // namespace fastgen::jinja
