// Whether the arena holds the running sequences until each has ended. Whoever is admitted beyond that loses its blocks later, and what
// was computed of it is computed again. 512 prompts of 1,024 tokens with answers of 1,195, a third more than an H200 holds: 10,137
// tokens a second, and 9,652 without a look ahead (gpu-offline.json, gpu-offline-again.json: another card, 1 % faster at the rest).
//
// The most tokens that a set of sequences ever holds, if each draws as many more as is expected of it: between two ends the number only
// grows, so the peak lies where one of them ends (Gong et al., "Past-Future Scheduler for LLM Serving under SLA Guarantees", ASPLOS 2025).
// Plain arithmetic; one thread.
#pragma once

#include <cstdint>
#include <vector>

namespace fastgen {

class Outlook {
 public:
  struct Entry {
    std::int64_t num_tokens = 0;   // held now, or soon without a further draw; and what its last blocks have room for when it ends
    std::int64_t num_to_come = 0;  // that each of its sequences is expected to draw
    std::int64_t num_sequences = 1;  // choices that share the prompt, each with its own tokens to come
    bool operator==(const Entry&) const = default;
  };
  explicit Outlook(std::vector<Entry> entries = {});

  void add(const Entry& entry);
  void remove(const Entry& entry);  // one that was added
  // In tokens, 0 for nobody.
  std::int64_t peak() const { return peak_of(nullptr); }
  std::int64_t peak_with(const Entry& another) const { return peak_of(&another); }

 private:
  std::int64_t peak_of(const Entry* another) const;

  std::vector<Entry> entries_;  // those that end last come first
};

// How many tokens answers had of late: the mean, to which the last ones contribute most.
class UsualLength {
 public:
  void add(std::int32_t num_tokens) {
    if (num_seen_ < kMemory) ++num_seen_;
    mean_ += (num_tokens - mean_) / num_seen_;
  }
  std::int32_t tokens() const { return static_cast<std::int32_t>(mean_); }  // 0: none was seen yet

 private:
  static constexpr int kMemory = 64;  // answers
  int num_seen_ = 0;
  double mean_ = 0;
};

}  // namespace fastgen
