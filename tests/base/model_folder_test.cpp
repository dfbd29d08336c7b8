#include "base/model_folder.h"

#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>

#include "fastgen/error.h"
#include "support/support.h"

namespace fastgen {
namespace {

namespace fs = std::filesystem;

// Sets (or, for nullptr, unsets) an environment variable for one scope.
class ScopedEnv {
 public:
  ScopedEnv(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    set(value);
  }
  ~ScopedEnv() { set(old_ ? old_->c_str() : nullptr); }

 private:
  void set(const char* value) {
    if (value) {
      setenv(name_, value, 1);
    } else {
      unsetenv(name_);
    }
  }
  const char* name_;
  std::optional<std::string> old_;
};

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

std::string error_of(const std::string& model, const std::string& revision = "main") {
  try {
    return "found " + resolve_model_folder(model, revision).string();
  } catch (const Error& error) {
    return error.what();
  }
}

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

void make_hub_model(const fs::path& hub) {
  const fs::path root = hub / "models--org--Name-1.5B";
  write(root / "refs" / "main", std::string(kCommit) + "\n");
  write(root / "refs" / "refs" / "pr" / "3", kCommit);
  write(root / "refs" / "stale", "ffff");
  write(root / "refs" / "evil", "../../../../etc");
  write(root / "snapshots" / kCommit / "config.json", "{}");
}

TEST_CASE("a folder with a config or a tokenizer is itself") {
  test::TempDir dir;
  write(dir.path() / "a" / "config.json", "{}");
  write(dir.path() / "b" / "tokenizer.json", "{}");
  fs::create_directories(dir.path() / "c");
  CHECK(resolve_model_folder((dir.path() / "a").string()) == dir.path() / "a");
  CHECK(resolve_model_folder((dir.path() / "b").string()) == dir.path() / "b");
  CHECK(error_of((dir.path() / "c").string()) == (dir.path() / "c").string() + ": a folder without config.json or tokenizer.json");
  CHECK(error_of((dir.path() / "d").string()) == (dir.path() / "d").string() + ": no such folder");
  CHECK(error_of("") == "model: the name is empty");
}

TEST_CASE("a hub name is found through refs and snapshots, by each of the variables") {
  test::TempDir dir;
  ScopedEnv no_hub("HF_HUB_CACHE", nullptr), no_home("HF_HOME", nullptr), no_xdg("XDG_CACHE_HOME", nullptr);
  ScopedEnv home("HOME", dir.path().c_str());
  const auto snapshot = [&](const fs::path& hub) { return hub / "models--org--Name-1.5B" / "snapshots" / kCommit; };

  CHECK(error_of("org/Name-1.5B").find("models--org--Name-1.5B") != std::string::npos);
  make_hub_model(dir.path() / ".cache" / "huggingface" / "hub");
  CHECK(resolve_model_folder("org/Name-1.5B") == snapshot(dir.path() / ".cache" / "huggingface" / "hub"));

  ScopedEnv hf_home("HF_HOME", (dir.path() / "hf").c_str());
  make_hub_model(dir.path() / "hf" / "hub");
  CHECK(resolve_model_folder("org/Name-1.5B") == snapshot(dir.path() / "hf" / "hub"));

  ScopedEnv hub("HF_HUB_CACHE", (dir.path() / "own").c_str());
  make_hub_model(dir.path() / "own");
  CHECK(resolve_model_folder("org/Name-1.5B") == snapshot(dir.path() / "own"));
  CHECK(resolve_model_folder("org/Name-1.5B", "refs/pr/3") == snapshot(dir.path() / "own"));
  CHECK(resolve_model_folder("org/Name-1.5B", kCommit) == snapshot(dir.path() / "own"));
}

TEST_CASE("what is not in the hub cache is an error that says where it looked") {
  test::TempDir dir;
  ScopedEnv hub("HF_HUB_CACHE", dir.path().c_str());
  make_hub_model(dir.path());
  const auto says = [&](const std::string& message, const std::string& part) {
    CHECK_MESSAGE(message.find(part) != std::string::npos, message);
  };
  says(error_of("org/Other"), (dir.path() / "models--org--Other").string());
  says(error_of("org/Name-1.5B", "v2"), "revision v2 is not in the hub cache");
  says(error_of("org/Name-1.5B", "stale"), (dir.path() / "models--org--Name-1.5B" / "snapshots" / "ffff").string());
  says(error_of("org/Name-1.5B", "evil"), "holds no commit");
  says(error_of("org/Name-1.5B", "../x"), "--revision ../x");
  says(error_of("org/Name-1.5B", ""), "--revision");
  says(error_of("org/../Name"), "no such folder");
  says(error_of("a/b/c"), "no such folder");
}

TEST_CASE("the default model lies in the user's cache") {
  ScopedEnv home("HOME", "/home/someone");
  {
    ScopedEnv xdg("XDG_CACHE_HOME", nullptr);
    CHECK(default_model_folder() == "/home/someone/.cache/fastgen/SmolLM2-135M-Instruct");
  }
  ScopedEnv xdg("XDG_CACHE_HOME", "/elsewhere");
  CHECK(default_model_folder() == "/elsewhere/fastgen/SmolLM2-135M-Instruct");
}

}  // namespace
}  // namespace fastgen
