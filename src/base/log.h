// The log: one line per message on stderr, "2024-07-26 12:00:00.123 info  message". Any thread.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace fastgen {

enum class LogLevel : std::uint8_t { kDebug, kInfo, kWarn, kError, kOff };

// "debug", "info", "warn", "error" or "off". Throws Error naming --log-level.
LogLevel parse_log_level(std::string_view name);
void set_log_level(LogLevel level);  // kInfo before the first call
bool log_enabled(LogLevel level);
void log_line(LogLevel level, std::string_view message);  // line breaks within become spaces

template <typename... Values>
void log_debug(fmt::format_string<Values...> format, Values&&... values) {
  if (log_enabled(LogLevel::kDebug))
    log_line(LogLevel::kDebug, fmt::format(format, std::forward<Values>(values)...));
}
template <typename... Values>
void log_info(fmt::format_string<Values...> format, Values&&... values) {
  if (log_enabled(LogLevel::kInfo))
    log_line(LogLevel::kInfo, fmt::format(format, std::forward<Values>(values)...));
}
template <typename... Values>
void log_warn(fmt::format_string<Values...> format, Values&&... values) {
  if (log_enabled(LogLevel::kWarn))
    log_line(LogLevel::kWarn, fmt::format(format, std::forward<Values>(values)...));
}
template <typename... Values>
void log_error(fmt::format_string<Values...> format, Values&&... values) {
  if (log_enabled(LogLevel::kError))
    log_line(LogLevel::kError, fmt::format(format, std::forward<Values>(values)...));
}

}  // namespace fastgen
