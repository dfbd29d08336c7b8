#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>

#include "fastgen/error.h"

namespace fastgen {

namespace {

constexpr std::array<const char*, 5> kNames = {"debug", "info", "warn", "error", "off"};

spdlog::level::level_enum to_spdlog(LogLevel level) {
  constexpr std::array kLevels = {spdlog::level::debug, spdlog::level::info, spdlog::level::warn,
                                  spdlog::level::err, spdlog::level::off};
  return kLevels[static_cast<std::size_t>(level)];
}

spdlog::logger& logger() {
  // Never destroyed: threads may still log while the program exits.
  static spdlog::logger& instance = []() -> spdlog::logger& {
    auto* made = new spdlog::logger("fastgen", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%Y-%m-%d %H:%M:%S.%e %v");
    made->set_level(spdlog::level::info);
    made->flush_on(spdlog::level::debug);
    return *made;
  }();
  return instance;
}

}  // namespace

LogLevel parse_log_level(std::string_view name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) {
    throw Error(fmt::format("--log-level: \"{}\" is none of debug, info, warn, error, off", name));
  }
  return static_cast<LogLevel>(found - kNames.begin());
}

void set_log_level(LogLevel level) { logger().set_level(to_spdlog(level)); }

bool log_enabled(LogLevel level) { return logger().should_log(to_spdlog(level)); }

void log_line(LogLevel level, std::string_view message) {
  // A message may quote foreign text; it must not be able to forge a line of its own.
  std::string line(message);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  logger().log(to_spdlog(level), "{:<5} {}", kNames[static_cast<std::size_t>(level)], line);
}

}  // namespace fastgen
