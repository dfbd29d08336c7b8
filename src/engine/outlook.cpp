#include "engine/outlook.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace fastgen {
namespace {

bool ends_later(const Outlook::Entry& a, const Outlook::Entry& b) { return a.num_to_come > b.num_to_come; }

}  // namespace

Outlook::Outlook(std::vector<Entry> entries) : entries_(std::move(entries)) {
  std::sort(entries_.begin(), entries_.end(), ends_later);
}

void Outlook::add(const Entry& entry) { entries_.insert(std::upper_bound(entries_.begin(), entries_.end(), entry, ends_later), entry); }

void Outlook::remove(const Entry& entry) {
  const auto found = std::find(entries_.begin(), entries_.end(), entry);
  FG_CHECK(found != entries_.end(), entry.num_tokens, entry.num_to_come);
  entries_.erase(found);
}

// When entry i ends, it and all before it are still there, and have drawn as many tokens as it had to come.
std::int64_t Outlook::peak_of(const Entry* another) const {
  std::int64_t peak = 0, num_tokens = 0, num_sequences = 0;
  const auto take = [&](const Entry& entry) {
    num_sequences += entry.num_sequences;
    num_tokens += entry.num_tokens;
    peak = std::max(peak, num_tokens + num_sequences * entry.num_to_come);
  };
  for (const Entry& entry : entries_) {
    if (another != nullptr && ends_later(*another, entry)) take(*std::exchange(another, nullptr));
    take(entry);
  }
  if (another != nullptr) take(*another);
  return peak;
}

}  // namespace fastgen
