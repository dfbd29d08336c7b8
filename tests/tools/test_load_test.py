"""scripts/load-test and scripts/plots: that they run, and say what they lack."""

import json
import resource
import subprocess
import sys

from conftest import ROOT


def run(script, *arguments):
    return subprocess.run([sys.executable, ROOT / "scripts" / script, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_the_front_end_is_measured(programs, tmp_path):
    output = tmp_path / "load.json"
    test = run("load-test", "--quick", "--front-end", "--build", programs.parent, "--output", output)
    assert test.returncode == 0, test.stdout + test.stderr
    record = json.loads(output.read_text())
    assert record["commit"] and record["machine"]["num_cores"] > 0
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 1 << 20 if hard == resource.RLIM_INFINITY else hard - 200
    assert [row["connections"] for row in record["front_end"]] == [min(count, most) for count in (256, 2000, 5000)]
    for row in record["front_end"]:
        assert row["failed"] == 0 and 0 < row["events"] <= row["tokens"]
        assert row["events_per_io_cpu_s"] > row["events_per_wall_s"] > 0


def test_what_is_missing_is_named(programs, tmp_path):
    assert "--build" in run("load-test", "--build", tmp_path).stderr
    assert "no config.json" in run("load-test", "--build", programs.parent, "--gpu", tmp_path).stderr
    assert "none.json" in run("plots", tmp_path / "none.json").stderr
    (tmp_path / "empty.json").write_text('{"runs": []}')
    assert "empty.json" in run("plots", tmp_path / "empty.json").stderr
