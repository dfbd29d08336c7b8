#include <string>

#include "backend/backend.h"
#include "fastgen/error.h"
#include "support/support.h"

using namespace fastgen;

TEST_CASE("factory: every name makes what it says") {
  const BackendOptions options{.num_threads = 1};
  CHECK(make_backend("cpu", options)->name() == "cpu");
  CHECK(make_backend("echo", options)->name() == "echo");
  CHECK(make_backend("late", options)->name() == "late:cpu");
  CHECK(make_backend("late:echo", options)->name() == "late:echo");
  CHECK(make_backend("check:cpu", options)->name() == "check:cpu");
  CHECK(make_backend("late:echo", options)->uses_weights() == false);
  CHECK(make_backend("late", options)->uses_weights() == true);
  CHECK(make_backend("fail-after:3:echo", options)->name() == "fail-after:3:echo");
}

TEST_CASE("factory: backends that take their time carry a number") {
  CHECK(make_backend("stall-after:3:echo", {})->name() == "stall-after:3:echo");
  CHECK(make_backend("slow:20:echo", {})->name() == "slow:20:echo");
  for (const char* name : {"slow:echo", "slow::echo", "slow:-1:echo", "slow:x:echo", "slow:5:cpu", "stall-after:echo"})
    CHECK_THROWS_AS(make_backend(name, {}), Error);
}

TEST_CASE("factory: an unknown or absent backend names the flag and the choices") {
  CHECK_THROWS_WITH_AS(make_backend("tpu", {}),
                       "--backend tpu: unknown, the choices are cpu, cuda, check, echo, late, late:echo", Error);
  CHECK_THROWS_AS(make_backend("", {}), Error);
  for (const char* name : {"late:late", "fail-after:", "fail-after:3", "fail-after:x:echo", "fail-after:3:cpu"})
    CHECK_THROWS_AS(make_backend(name, {}), Error);
  try {
    make_backend("cuda", {});
  } catch (const Error& error) {
    const std::string line = error.what();
    CHECK(line.starts_with("--backend cuda"));
    CHECK(line.find('\n') == std::string::npos);
    // What the library says of a machine without any driver is that the driver is too old.
    CHECK(line.find("insufficient") == std::string::npos);
  }
}
