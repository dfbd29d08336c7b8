// What one rendering may use. The budget belongs to the thread that renders; strings, lists and dicts made
// while a BudgetScope lives are counted against it, so no template or message can hang or exhaust memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace fastgen::jinja {

// A rendering that went wrong, "TypeError: ..." in Python's words. Becomes fastgen::Error at the border.
class RenderError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// fail("TypeError", "unhashable type: 'list'")
[[noreturn]] void fail(const char* kind, const std::string& message);

constexpr std::size_t kMaxSource = 1 << 20;  // bytes of a template
constexpr int kMaxParseDepth = 150;          // nested brackets and blocks
constexpr int kMaxTreeHeight = 700;          // of one expression: a + b + c + ... is as high as it is long
constexpr int kMaxCallDepth = 1000;          // nested evaluations, macros included (Python's own limit)
constexpr std::uint32_t kMaxNesting = 200;   // lists in lists, in messages and in values
constexpr std::size_t kMaxText = 64u << 20;  // bytes of one string, the output included
constexpr std::int64_t kMaxLiveBytes = 256 << 20;  // of all strings, lists and dicts that a rendering made
constexpr std::int64_t kMaxSteps = 20'000'000;     // one per evaluated node, item or 256 bytes moved
constexpr std::int64_t kMaxRange = 100'000;        // items of range(), as in Jinja2's sandbox

// Takes `count` steps from the thread's budget; fails when they are used up. Free outside of a rendering.
void charge_steps(std::size_t count);
// Counts `bytes` of a live object, and the steps to fill it. Returns what release_bytes must give back.
std::size_t charge_bytes(std::size_t bytes);
void release_bytes(std::size_t bytes) noexcept;
// Fails if a text of `bytes` would be longer than any may be.
void check_text_size(std::size_t bytes);

class BudgetScope {
 public:
  BudgetScope();
  ~BudgetScope();
  BudgetScope(const BudgetScope&) = delete;
  BudgetScope& operator=(const BudgetScope&) = delete;
};

}  // namespace fastgen::jinja
