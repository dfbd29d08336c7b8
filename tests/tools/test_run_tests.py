"""scripts/run_tests.py: what it counts, with small programs in place of the real ones."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUMMARY = "[doctest] test cases:  {0} |  {1} passed | {2} failed | 0 skipped"


def program(path, output, status=0):
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {status}\n")
    path.chmod(0o755)
    return {"name": path.name.removeprefix("test_"), "cmd": [str(path)], "env": {}}


def run(tmp_path, tests, *options):
    """Runs the real script, with a meson in PATH that knows these tests."""
    listing = tmp_path / "tests.json"
    listing.write_text(json.dumps(tests))
    program(tmp_path / "meson", "", 0)
    (tmp_path / "meson").write_text(f"#!/bin/sh\ncat {listing}\n")
    result = subprocess.run([sys.executable, str(ROOT / "scripts" / "run_tests.py"), "--build", str(tmp_path), "--unit", "*", *options],
                            capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    return result.returncode, result.stdout.splitlines()


def test_passed_failed_and_skipped_cases_are_counted_across_programs(tmp_path):
    skips = "SKIPPED: a chat: lacks the model\nSKIPPED: a chat: lacks the model\nSKIPPED: gold: lacks assets"
    tests = [program(tmp_path / "test_a", SUMMARY.format(7, 7, 0)),
             program(tmp_path / "test_b", f"{skips}\n{SUMMARY.format(5, 4, 1)}", 1)]
    status, lines = run(tmp_path, tests)
    assert lines[-1] == "9 passed, 1 failed, 2 skipped"
    assert status == 1
    assert "    skipped a chat: lacks the model" in lines


def test_all_green_is_status_0(tmp_path):
    status, lines = run(tmp_path, [program(tmp_path / "test_a", SUMMARY.format(3, 3, 0))])
    assert (status, lines[-1]) == (0, "3 passed, 0 failed, 0 skipped")


def test_a_program_that_crashes_is_one_failure_and_shown_wholly(tmp_path):
    tests = [program(tmp_path / "test_a", "the last words", 139), program(tmp_path / "test_b", SUMMARY.format(2, 2, 0))]
    status, lines = run(tmp_path, tests)
    assert (status, lines[-1]) == (1, "2 passed, 1 failed, 0 skipped")
    assert "the last words" in lines


def test_a_bad_exit_after_a_clean_summary_is_a_failure(tmp_path):
    """A leak that a sanitizer reports at exit, say."""
    status, lines = run(tmp_path, [program(tmp_path / "test_a", SUMMARY.format(2, 2, 0), 1)])
    assert (status, lines[-1]) == (1, "0 passed, 1 failed, 0 skipped")


def test_a_program_that_is_no_doctest_counts_by_its_status(tmp_path):
    tests = [program(tmp_path / "good", ""), program(tmp_path / "bad", "", 3), program(tmp_path / "none", "", 77)]
    status, lines = run(tmp_path, tests)
    assert (status, lines[-1]) == (1, "1 passed, 1 failed, 1 skipped")


def test_no_test_at_all_is_no_success(tmp_path):
    status, lines = run(tmp_path, [program(tmp_path / "test_a", SUMMARY.format(2, 2, 0))], "--filter", "nothing has this name")
    assert (status, lines[-1]) == (1, "0 passed, 0 failed, 0 skipped")
