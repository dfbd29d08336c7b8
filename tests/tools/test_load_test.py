"""scripts/load-test and scripts/plots: that they run, and say what they lack."""

import json
import resource
import runpy
import subprocess
import sys

import pytest
from conftest import ROOT
from tiny_folder import make_tiny_folder


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
    assert len(record["half_load"]) == 3
    assert [(row["sockets"], row["io_threads"]) for part in ("two_io_threads", "unix_sockets") for row in record[part]] == 2 * [("tcp", 2)] + 2 * [("unix", 1)]
    for row in record["front_end"] + record["half_load"] + record["two_io_threads"] + record["unix_sockets"]:
        times = row["step_to_write_ms"]
        assert 0 < times["p50"] <= times["p90"] <= times["p99"] and 0 < row["writes"] <= row["tokens"] + row["connections"]
        assert row["failed"] == 0 and 0 < row["events"] <= row["tokens"]
        # One thread takes no more than its time, but for what it does just before and after the measured one.
        assert row["events_per_io_cpu_s"] > 0.8 / row["io_threads"] * row["events_per_wall_s"] > 0
    assert record["idle_connections"]["connections"] <= 1000 and record["idle_connections"]["after_a_request_each_mb"] < 40


def test_the_burst_is_measured_in_turns(programs, tmp_path):
    folder, output = make_tiny_folder(tmp_path / "tiny"), tmp_path / "burst.json"
    test = run("load-test", "--burst", folder, "--backend", "slow:2:echo", "--shape", "8x4+20", "--repeats", "2", "--server-args", "--kv-gb 0.1",
               "--build", programs.parent, "--output", output)
    assert test.returncode == 0, test.stdout + test.stderr
    record = json.loads(output.read_text())
    burst = record["burst"]
    assert record["backend"] == "slow:2:echo" and str(tmp_path) not in output.read_text()
    assert len(burst["offline_runs"]) == len(burst["http_runs"]) == 2
    assert burst["offline_tokens_per_s"] == sum(burst["offline_runs"]) / 2 and burst["http_tokens_per_s"] == sum(burst["http_runs"]) / 2
    lost = [100 - 100 * http / offline for offline, http in zip(burst["offline_runs"], burst["http_runs"])]
    assert burst["lost_percent"] == pytest.approx(sum(lost) / 2)
    assert burst["lost_percent_plus_minus"] == pytest.approx(12.71 * abs(lost[0] - lost[1]) / 2)  # Student's t of one degree of freedom
    for wrong in (("--shape", "8x4"), ("--repeats", "0")):
        assert wrong[0] in run("load-test", "--burst", folder, "--build", programs.parent, *wrong).stderr


def gpu(programs, model, folder, *more):
    """--gpu on echo, with programs that are given one by one, as where there is no build folder."""
    return run("load-test", "--gpu", model, "--backend", "slow:2:echo", "--quick", "--server-args", "--kv-gb 0.5", "--fgserve",
               programs / "fgserve", "--fgbench", programs / "bench" / "fgbench", "--record", folder / "record", "--output", folder / "gpu.json", *more)


def test_the_gpu_part_works_in_slices_and_goes_on(programs, tmp_path):
    model = ROOT / "tests" / "configs" / "mistral-7b"  # without a tokenizer
    first = gpu(programs, model, tmp_path, "--only", "burst 1", "20 a second")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "2 passed, 0 failed" in first.stdout
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["commit"] and record["device"] and record["model"] == "mistral-7b" and len(record["burst"]["http_runs"]) == 1
    (load,) = record["runs"]
    # Each token is an event: figures of the gaps between events are those of tokens.
    assert load["num_chunks"] == load["total_output_tokens"] == 128 * load["completed"] and load["total_input_tokens"] == 1024 * load["completed"]
    second = gpu(programs, model, tmp_path, "--only", "burst", "20 a second", "1 at a time", "--repeats", "2")
    assert second.returncode == 0, second.stdout + second.stderr
    assert [line.split(":")[0] for line in second.stdout.splitlines()[:2]] == ["burst 2", "1 at a time"]
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert len(record["burst"]["offline_runs"]) == 2 and record["runs"] == [load] and record["closed"][0]["max_concurrency"] == 1
    assert "load-test: 2 pairs" in second.stdout
    late = gpu(programs, model, tmp_path, "--only", "28 a second", "--minutes", "0.1")
    assert late.returncode == 1 and "not run: 28 a second (no time)" in late.stdout


def test_a_server_that_does_not_start_is_a_failed_slice(programs, tiny, tmp_path):
    test = gpu(programs, tiny, tmp_path, "--only", "a second", "--rates", "50", "--server-args", "--kv-gb 0.5 --no-such-flag")
    assert test.returncode == 1 and "failed: 50 a second" in test.stdout and "no-such-flag" in test.stdout
    assert "--rates" in run("load-test", "--gpu", tiny, "--build", programs.parent, "--rates", "0").stderr


def test_percentiles_of_a_histogram():
    percentile = runpy.run_path(str(ROOT / "scripts" / "load_runs.py"))["percentile"]
    buckets = [(1.0, 10), (2.0, 10), (4.0, 90), (float("inf"), 100)]
    assert percentile(buckets, 0.05) == 0.5 and percentile(buckets, 0.1) == 1 and percentile(buckets, 0.5) == 3
    assert percentile(buckets, 0.99) == 4  # above the last bound nothing is known


def test_what_is_missing_is_named(programs, tmp_path):
    assert "--build" in run("load-test", "--build", tmp_path).stderr
    assert "no config.json" in run("load-test", "--build", programs.parent, "--gpu", tmp_path).stderr
    assert "no config.json" in run("load-test", "--build", programs.parent, "--burst", tmp_path).stderr
    assert "none.json" in run("plots", tmp_path / "none.json").stderr
    (tmp_path / "empty.json").write_text('{"runs": []}')
    assert "empty.json" in run("plots", tmp_path / "empty.json").stderr
