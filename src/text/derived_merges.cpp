#include "text/derived_merges.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>

#include "text/utf8.h"

namespace fastgen {

namespace {

// A token is cut at each of its characters, so that a long one would cost the square of its length; real ones end far below.
constexpr std::size_t kMaxBytes = 1024;

struct Merge {
  double priority;
  std::int32_t left, right;
  std::string_view left_name, right_name;
};

}  // namespace

void write_derived_merges(JsonWriter& json, const std::vector<Mergeable>& tokens, const std::vector<Mergeable>& parts) {
  std::unordered_map<std::string_view, std::int32_t> ids;
  for (const Mergeable& part : parts) ids.emplace(part.name, part.id);
  std::vector<Merge> merges;
  for (const Mergeable& token : tokens) {
    if (token.name.size() > kMaxBytes) continue;
    const std::size_t first = merges.size();
    for (std::size_t cut = 1; cut < token.name.size(); ++cut) {
      if (is_utf8_continuation(token.name[cut])) continue;
      const std::string_view left_name = token.name.substr(0, cut), right_name = token.name.substr(cut);
      const auto left = ids.find(left_name), right = ids.find(right_name);
      if (left != ids.end() && right != ids.end()) merges.push_back({token.priority, left->second, right->second, left_name, right_name});
    }
    const auto by_parts = [](const Merge& a, const Merge& b) { return std::tie(a.left, a.right) < std::tie(b.left, b.right); };
    std::sort(merges.begin() + static_cast<std::ptrdiff_t>(first), merges.end(), by_parts);
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) { return a.priority > b.priority; });
  json.key("merges").begin_array();
  for (const Merge& merge : merges) json.begin_array().value(merge.left_name).value(merge.right_name).end_array();
  json.end_array();
}

}  // namespace fastgen
