#include "base/model_folder.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <vector>

#include <fmt/format.h>

#include "fastgen/error.h"

namespace fastgen {

namespace fs = std::filesystem;

namespace {

std::string env(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

fs::path user_cache() {
  if (const std::string dir = env("XDG_CACHE_HOME"); !dir.empty()) return dir;
  return fs::path(env("HOME")) / ".cache";
}

// As huggingface_hub finds it: XDG_CACHE_HOME counts here too.
fs::path hub_cache() {
  if (const std::string dir = env("HF_HUB_CACHE"); !dir.empty()) return dir;
  if (const std::string dir = env("HF_HOME"); !dir.empty()) return fs::path(dir) / "hub";
  return user_cache() / "huggingface" / "hub";
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool holds_model(const fs::path& folder) {
  for (const char* file : {"config.json", "tokenizer.json", "tekken.json", "tokenizer.model"})
    if (is_file(folder / file)) return true;
  return false;
}

// One step of a path that we build from foreign text: no way up, no absolute path, nothing hidden.
bool is_plain_name(std::string_view name) {
  return !name.empty() && name[0] != '.' && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

bool is_hub_name(const std::string& model) {
  const std::vector<std::string> parts = split(model, '/');
  return parts.size() <= 2 && std::all_of(parts.begin(), parts.end(), is_plain_name);
}

// A branch may hold slashes ("refs/pr/1"), each part of it a folder below refs/.
bool is_revision(const std::string& revision) {
  const std::vector<std::string> parts = split(revision, '/');
  return std::all_of(parts.begin(), parts.end(), is_plain_name);
}

std::string first_line(const fs::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
  return line;
}

fs::path find_in_hub(const std::string& model, const std::string& revision) {
  std::string folder_name = "models--" + model;
  if (const auto slash = folder_name.find('/'); slash != std::string::npos) folder_name.replace(slash, 1, "--");
  const fs::path root = hub_cache() / folder_name;
  if (!is_folder(root)) {
    throw Error(fmt::format("model {0}: no such folder, and not in the hub cache (looked for {1}; \"hf download {0}\" puts it there)", model, root.string()));
  }
  const fs::path ref = root / "refs" / revision;
  const std::string commit = is_file(ref) ? first_line(ref) : revision;
  if (!is_plain_name(commit)) throw Error(fmt::format("{}: holds no commit", ref.string()));
  const fs::path snapshot = root / "snapshots" / commit;
  if (holds_model(snapshot)) return snapshot;
  throw Error(fmt::format("model {}: revision {} is not in the hub cache (looked for {} and {}/config.json)", model,
                          revision, ref.string(), snapshot.string()));
}

}  // namespace

fs::path resolve_model_folder(const std::string& model, const std::string& revision) {
  if (model.empty()) throw Error("model: the name is empty");
  if (holds_model(model)) return model;
  if (is_folder(model)) throw Error(fmt::format("{}: a folder without config.json or tokenizer.json", model));
  if (is_file(model)) throw Error(fmt::format("{}: a file, where a model's folder is needed", model));
  if (!is_hub_name(model)) throw Error(fmt::format("{}: no such folder", model));
  if (!is_revision(revision)) throw Error(fmt::format("--revision {}: not a branch, tag or commit", revision));
  return find_in_hub(model, revision);
}

fs::path cache_folder() { return user_cache() / "fastgen"; }

fs::path default_model_folder() { return cache_folder() / "SmolLM2-135M-Instruct"; }

}  // namespace fastgen
