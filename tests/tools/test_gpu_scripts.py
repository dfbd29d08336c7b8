"""scripts/check-gpu and its slices, with small programs in place of the real ones: what is counted, kept, left out and run again."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUMMARY = "[doctest] test cases:  {0} |  {1} passed | {2} failed | 0 skipped"
SUITES = ["[doctest] listing all test suites", "small one", "small library products", "another"]

PROGRAM = """#!{python}
import os, sys
name = os.path.basename(sys.argv[0])
if "--list-test-suites" in sys.argv:
    print("\\n".join({suites!r}))
    sys.exit(0)
open(os.path.join(os.path.dirname(sys.argv[0]), "calls"), "a").write(name + " " + " ".join(sys.argv[1:]) + "\\n")
plan = {{}}
path = os.path.join(os.path.dirname(sys.argv[0]), "plan.json")
if os.path.exists(path):
    import json
    plan = json.load(open(path))
output, status = plan.get(name, [{summary!r}, 0])
print(output)
sys.exit(status)
"""
SANITIZER = """#!/bin/sh
while [ "${1#/}" = "$1" ]; do shift; done
"$@"; status=$?
[ -e "$(dirname "$0")/says nothing" ] || echo "========= ERROR SUMMARY: 0 errors"
exit $status
"""


class Fake:
    def __init__(self, folder):
        self.folder = folder
        for name in ("test_cuda", "test_engine", "test_model"):
            self.write(name, PROGRAM.format(python=sys.executable, suites=SUITES, summary=SUMMARY.format(3, 3, 0)))
        self.write("nvidia-smi", "#!/bin/sh\necho GPU 0: a card\n")
        self.write("compute-sanitizer", SANITIZER)

    def write(self, name, text):
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def plan(self, **plan):
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def calls(self):
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def run(self, *options):
        command = [sys.executable, ROOT / "scripts" / "check-gpu", "--programs", self.folder, "--record", self.folder / "record", *options]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True,
                              env={"PATH": f"{self.folder}:{os.environ['PATH']}"}, timeout=60)
        return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.fixture
def fake(tmp_path):
    return Fake(tmp_path)


def test_all_is_run_once_and_counted(fake):
    status, lines, _ = fake.run()
    assert status == 1 and lines[-1] == "39 passed, 0 failed, 1 skipped"  # fgserve lacks a model
    assert lines[-2].startswith("not run: fgserve over HTTP (--model FOLDER")
    assert lines[-3] == "failed: none"
    calls = fake.calls()
    assert len(calls) == 1 + 1 + 6 + 1 + 3 * 2 - 2  # two tools leave the library's readers out
    assert "test_model --test-case=on a GPU every model* --subcase=SmolLM2 --no-colors=true" in calls
    assert sum("--test-suite=small one" in call for call in calls) == 3
    assert sum("--test-suite=small library products" in call for call in calls) == 1
    status, lines, _ = fake.run()  # nothing is open but the one that lacks something
    assert fake.calls() == [] and lines[-1] == "39 passed, 0 failed, 1 skipped"
    fake.run("--only", "variants", "--again")
    assert len(fake.calls()) == 1


def test_failures_skips_and_deaths_are_told_apart(fake):
    fake.plan(test_engine=[SUMMARY.format(2, 1, 1), 1], test_model=["SKIPPED: SmolLM2\n" + SUMMARY.format(1, 1, 0), 0],
              test_cuda=["Segmentation fault", 139])
    status, lines, _ = fake.run("--only", "ops", "engine", "goldens SmolLM2")
    assert status == 1 and lines[-1] == "1 passed, 2 failed, 1 skipped"
    assert lines[-3] == "failed: ops, engine"
    assert any("Segmentation fault" in line for line in lines)
    fake.calls()
    fake.run("--only", "ops")  # what has failed is not run again unasked
    assert fake.calls() == []
    fake.write("test_cuda", PROGRAM.format(python=sys.executable, suites=SUITES, summary=SUMMARY.format(3, 3, 0)) + "# built anew\n")
    fake.plan()
    assert fake.run("--only", "ops", "engine")[1][-1] == "6 passed, 0 failed, 0 skipped"
    (fake.folder / "says nothing").touch()  # a sanitizer that has looked at nothing
    assert fake.run("--only", "memcheck small one")[1][-1] == "3 passed, 1 failed, 0 skipped"


def test_a_slice_that_does_not_fit_is_not_begun(fake):
    status, lines, _ = fake.run("--minutes", "2.5", "--only", "ops", "stories15M")
    assert status == 1 and lines[-2] == "not run: ops (no time)"
    assert lines[-4] == "passed: goldens stories15M"
    assert fake.run("--minutes", "4", "--only", "ops", "stories15M")[0] == 0


def test_what_was_cut_off_runs_again_and_after_twice_has_failed(fake):
    assert fake.run("--only", "ops")[0] == 0
    path = fake.folder / "record" / "ops.json"
    entry = json.loads(path.read_text())
    for cut_off, result in ((1, "3 passed, 0 failed, 0 skipped"), (2, "0 passed, 1 failed, 0 skipped")):
        path.write_text(json.dumps({"name": "ops", "key": entry["key"], "status": "cut off", "cut_off": cut_off}))
        assert fake.run("--only", "ops")[1][-1] == result
    path.write_text("{ half of a f")
    assert fake.run("--only", "ops")[1][-1] == "3 passed, 0 failed, 0 skipped"


def test_what_is_missing_is_said(fake):
    (fake.folder / "compute-sanitizer").unlink()
    status, lines, _ = fake.run("--only", "memcheck")
    assert status == 1 and lines[-2].count("(compute-sanitizer)") == 2
    (fake.folder / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert "no NVIDIA driver" in fake.run()[2]
    (fake.folder / "test_model").unlink()
    assert "test_model: build it first" in fake.run()[2]


def test_bench_gpu_measures_writes_and_goes_on(programs, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "configs" / "mistral-7b")
    output = tmp_path / "results"

    def bench(*options):
        command = [sys.executable, ROOT / "scripts" / "bench-gpu", "--fgbench", programs / "bench" / "fgbench", "--fgserve", programs / "fgserve",
                   "--backend", "cpu", "--configs", tmp_path / "configs", "--models", "mistral-7b", "--max-batch", 8,
                   "--first-starts", 1, "--flag=--kv-gb=0.05", "--record", tmp_path / "record", "--output", output, *options]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout.splitlines()

    status, lines = bench("--only", "1x128", "cost")
    assert status == 1 and lines[-1] == "2 passed, 0 failed, 1 skipped", lines  # no other fgbench to compare with
    offline = json.loads((output / "cpu-offline.json").read_text())["models"]["mistral-7b"]
    assert offline["runs"]["1x128+256"][0]["output_tokens_per_s"] > 0 and "--case CASE" in offline["command"]
    costs = json.loads((output / "cpu-costs.json").read_text())
    assert len(costs["tracing"]["step_ms_p50"]["with"]) == 3 and "cost_percent" in costs["tracing"]
    assert not (output / "cpu-ops.json").exists()
    status, lines = bench("--only", "1x128", "1x1024")  # the first is there already, and stays
    assert status == 0 and [line.split(":")[0] for line in lines[:-4]] == ["offline mistral-7b 1x1024+1"]
    runs = json.loads((output / "cpu-offline.json").read_text())["models"]["mistral-7b"]["runs"]
    assert list(runs) == ["1x128+256", "1x1024+1"]
    status, lines = bench("--only", "profiler", "load", "--other-fgbench", programs / "bench" / "fgbench")  # what lacked something runs now
    assert status == 0, lines
    costs = json.loads((output / "cpu-costs.json").read_text())
    assert len(costs["the profiler"]["step_ms_p50"]["without"]) == 5 and "tracing" in costs
    load = json.loads((output / "cpu-load.json").read_text())
    assert load["warm"]["plain_read_s"]["median"] > 0 and len(load["dropped"]["start_s"]["runs"]) == 1


def test_fgserve_answers_as_the_check_wants_on_the_cpu(programs, tiny):
    done = subprocess.run([sys.executable, ROOT / "scripts" / "serve_check.py", tiny, "--fgserve", programs / "fgserve", "--backend", "cpu",
                           "--flag=--kv-gb=0.05", "--flag=--dummy-weights"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "8 passed, 0 failed, 0 skipped", done.stdout + done.stderr
