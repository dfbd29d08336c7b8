"""Runs what scripts/test has built, shows what failed, and counts. The last line is "N passed, N failed, N skipped".

A unit test program counts as many tests as it has doctest cases; one that says "SKIPPED: NAME: lacks X" was skipped.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUMMARY = re.compile(r"^\[doctest\] test cases: *(\d+) *\| *(\d+) passed *\| *(\d+) failed", re.MULTILINE)
SKIPPED = re.compile(r"^SKIPPED: (.*)$", re.MULTILINE)
SECONDS_MAX = 1800  # for one program; a sanitized one is slow

# The first thing that a sanitizer finds ends the program, so that it counts.
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


class Counts:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []

    def begin(self, name):
        """On a terminal: what runs now, since some take minutes."""
        if sys.stdout.isatty():
            print(f"  {name} ...", end="", flush=True)

    def end(self):
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)

    def add(self, name, seconds, passed, failed, skipped, output):
        self.end()
        self.passed, self.failed, self.skipped = self.passed + passed, self.failed + failed, self.skipped + skipped
        print(f"  {name}: {passed} passed, {failed} failed, {skipped} skipped ({seconds:.1f} s)", flush=True)
        if failed:
            self.failures.append(name)
            print(f"----- the output of {name} -----\n{output.rstrip()}\n----- end of {name} -----", flush=True)


def run(command, seconds_max, **more):
    """(exit status, output, seconds); a program that runs past its time is ended with all that it started."""
    start = time.monotonic()
    environment = {**SANITIZERS, **os.environ, **more.pop("env", {})}
    with tempfile.TemporaryFile() as file:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                                   start_new_session=True, env=environment, **more)
        late = ""
        try:
            status = process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            status, late = 1, f"\nran past {seconds_max} seconds and was ended"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        file.seek(0)
        return status, file.read().decode(errors="replace") + late, time.monotonic() - start


def meson_tests(build):
    """The tests that the build knows: name, command, environment."""
    text = subprocess.run(["meson", "introspect", "--tests", str(build)], capture_output=True, text=True, check=True).stdout
    return [(test["name"], test["cmd"], test.get("env", {})) for test in json.loads(text)]


def run_unit(counts, name, command, environment):
    counts.begin(name)
    is_doctest = pathlib.Path(command[0]).name.startswith("test_")
    status, output, seconds = run(command + (["--no-colors=true"] if is_doctest else []), SECONDS_MAX, env=environment)
    if not is_doctest:  # an example, say: its exit status counts, 77 is Meson's way to say skipped
        counts.add(name, seconds, int(status == 0), int(status not in (0, 77)), int(status == 77), output)
        return
    skips = sorted(set(SKIPPED.findall(output)))
    match = SUMMARY.search(output)
    if match is None or (status != 0 and match[3] == "0"):
        counts.add(name, seconds, 0, 1, 0, f"{output}\n{name} ended with status {status} and no full count")
        return
    failed = int(match[3])
    skipped = min(len(skips), int(match[2]))
    counts.add(name, seconds, int(match[2]) - skipped, failed, skipped, output)
    for skip in skips:
        print(f"    skipped {skip}")


def run_python(counts, name, venv, build, keyword):
    folder = ROOT / "tests" / name
    if not list(folder.glob("test_*.py")) + list(folder.glob("*_test.py")):
        return
    counts.begin(f"tests/{name}")
    with tempfile.TemporaryDirectory() as scratch:
        report = pathlib.Path(scratch) / "junit.xml"
        command = [str(venv / "bin" / "python"), "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", f"--junitxml={report}", str(folder)]
        command += ["-k", keyword] if keyword else []
        status, output, seconds = run(command, SECONDS_MAX, env={"FG_BUILD": str(build)})
        if status == 5 and keyword:  # pytest found nothing under the filter
            counts.end()
            return
        if not report.is_file():
            counts.add(f"tests/{name}", seconds, 0, 1, 0, output)
            return
        suites = xml.etree.ElementTree.parse(report).getroot().iter("testsuite")
        total = failed = skipped = 0
        for suite in suites:
            total += int(suite.get("tests"))
            failed += int(suite.get("failures")) + int(suite.get("errors"))
            skipped += int(suite.get("skipped"))
        failed = failed or int(status != 0)
        counts.add(f"tests/{name}", seconds, max(total - failed - skipped, 0), failed, skipped, output)
        for line in sorted(set(re.findall(r"^SKIPPED \[\d+\] (.*)$", output, re.MULTILINE))):
            print(f"    skipped {line}")


def run_tidy(counts):
    counts.begin("tidy")
    status, output, seconds = run([str(ROOT / "scripts" / "tidy")], 600)
    counts.add("tidy", seconds, int(status == 0), int(status != 0), 0, output)


FUZZ_SEEDS = {"config": ["configs"], "jinja": ["golden/templates/sources"], "tokenizer": ["golden/tokens"]}


def run_fuzz(counts, build, target_seconds):
    """Each libFuzzer target for a while, from its seeds in tests/fuzz/corpus/NAME and what other tests have of its kind."""
    targets = sorted(path for path in (build / "tests" / "fuzz").glob("fuzz_*") if path.is_file() and os.access(path, os.X_OK))
    if not targets:
        counts.add("fuzz", 0, 0, 1, 0, f"no fuzz targets in {build}/tests/fuzz")
    for target in targets:
        name = target.name
        corpus = build / "corpus" / name
        corpus.mkdir(parents=True, exist_ok=True)
        short = name.removeprefix("fuzz_")
        seeds = [path for folder in (f"fuzz/corpus/{short}", *FUZZ_SEEDS.get(short, [])) if (path := ROOT / "tests" / folder).is_dir()]
        command = [str(target), f"-max_total_time={target_seconds}", "-timeout=20", "-rss_limit_mb=4096", "-print_final_stats=1",
                   f"-artifact_prefix={build}/{name}-", str(corpus), *map(str, seeds)]
        counts.begin(name)
        status, output, seconds = run(command, target_seconds + 300)
        counts.add(name, seconds, int(status == 0), int(status != 0), 0, output)
        if runs := re.search(r"number_of_executed_units: *(\d+)", output):
            print(f"    {runs[1]} inputs tried")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--venv", type=pathlib.Path)
    parser.add_argument("--unit", action="append", default=[], help="a unit test's name, or * for all")
    parser.add_argument("--python", action="append", default=[], help="a folder of tests/")
    parser.add_argument("--no-python", action="store_true")
    parser.add_argument("--tidy", action="store_true")
    parser.add_argument("--fuzz", type=int, help="seconds for each target")
    parser.add_argument("--filter", default="")
    options = parser.parse_args()
    counts = Counts()

    if options.fuzz:
        run_fuzz(counts, options.build, options.fuzz)
    for name, command, environment in meson_tests(options.build) if options.unit else []:
        if ("*" in options.unit or name in options.unit) and options.filter in name:
            run_unit(counts, name, command, environment)
    for name in [] if options.no_python else options.python:
        # A filter that is the folder's own name means all of it; pytest knows a file by its name alone.
        folder, _, file = options.filter.rpartition("/")
        keyword = file if folder.endswith(f"tests/{name}") else options.filter
        run_python(counts, name, options.venv, options.build, "" if options.filter in f"tests/{name}" else keyword)
    if options.tidy and options.filter in "tidy":
        run_tidy(counts)

    if counts.failures:
        print(f"failed: {', '.join(counts.failures)}")
    if counts.passed + counts.failed == 0:
        print("no test ran")
    print(f"{counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped", flush=True)
    return 1 if counts.failed or counts.passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
