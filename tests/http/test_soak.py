"""A short run of scripts/soak: everything that clients do, at random; every token checked, nothing left behind."""

import os
import pathlib
import subprocess
import sys

from conftest import ROOT, binary, sanitizer_options


def test_a_short_soak():
    """20 seconds, or FG_SOAK_SECONDS: CI takes two minutes, once."""
    build = binary().parent.parent
    sanitized = build.name != "build"  # a sanitizer keeps freed memory for a while, and is slow
    seconds = os.environ.get("FG_SOAK_SECONDS", "20")
    arguments = ["--seconds", seconds, "--build", str(build), "--rate", "40" if sanitized else "150"] + (["--loose-memory"] if sanitized else [])
    environment = {**os.environ, **sanitizer_options()}
    run = subprocess.run([sys.executable, ROOT / "scripts" / "soak", *arguments], capture_output=True, text=True, timeout=300 + 3 * float(seconds), env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1].endswith("passed"), run.stdout


def test_a_soak_without_a_server_says_so(tmp_path):
    run = subprocess.run([sys.executable, ROOT / "scripts" / "soak", "--seconds", "1", "--build", tmp_path], capture_output=True, text=True)
    assert run.returncode == 1 and str(pathlib.Path(tmp_path) / "tools" / "fgserve") in run.stdout
