"""fgbench offline on the echo backend: the table, the JSON record, and what is refused."""

import json
import subprocess

import pytest


def bench(programs, *arguments):
    return subprocess.run([programs / "bench" / "fgbench", *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_the_record_says_what_where_and_when(programs, tiny, tmp_path):
    path = tmp_path / "out.json"
    run = bench(programs, "offline", tiny, "--backend", "echo", "--num-prompts", 9, "--prompt-len", 33, "--decode-len", 17,
                "--max-batch", 4, "--kv-gb", 0.1, "--seed", 5, "--json", path)
    assert run.returncode == 0, run.stderr
    record = json.loads(path.read_text())
    assert record["benchmark"] == "offline" and record["commit"] and record["date"].endswith("Z")
    assert "--num-prompts 9" in record["command"]
    assert record["machine"]["num_cores"] >= 1 and record["machine"]["cpu"] and record["machine"]["memory_gb"] > 0
    assert (record["config"]["backend"], record["config"]["max_batch"], record["config"]["seed"]) == ("echo", 4, 5)
    results = record["results"]
    assert (results["prompt_tokens"], results["output_tokens"]) == (9 * 33, 9 * 17)
    assert results["num_steps"] >= 3 * 17  # nine requests, four at once
    assert results["output_tokens_per_s"] == pytest.approx(9 * 17 / results["wall_s"])
    for spread in ("ttft_ms", "tpot_ms", "step_ms"):
        assert 0 <= results[spread]["p50"] <= results[spread]["p99"] <= results[spread]["max"]
    assert f"{9 * 33} prompt and {9 * 17} output tokens" in run.stdout


def test_more_requests_than_tickets_all_finish(programs, tiny):
    run = bench(programs, "offline", tiny, "--backend", "echo", "--num-prompts", 1500, "--prompt-len", 8, "--decode-len", 3,
                "--kv-gb", 0.1)
    assert run.returncode == 0, run.stderr
    assert f"{1500 * 8} prompt and {1500 * 3} output tokens" in run.stdout


def test_dummy_weights_run_on_the_cpu_without_a_checkpoint(programs, tiny):
    run = bench(programs, "offline", tiny, "--dummy-weights", "--num-prompts", 2, "--prompt-len", 5, "--decode-len", 4, "--kv-gb", 0.1)
    assert run.returncode == 0, run.stderr
    assert "10 prompt and 8 output tokens" in run.stdout


@pytest.mark.parametrize("arguments, names", [
    (["--prompt-len", 4000], "--prompt-len 4000"),
    (["--num-prompts", 300, "--prompt-len", 1], "--num-prompts, --warmup: there are no 301"),
    (["--json", "/nowhere/out.json"], "/nowhere/out.json"),
])
def test_what_cannot_be_is_refused_by_name(programs, tiny, arguments, names):
    run = bench(programs, "offline", tiny, "--backend", "echo", "--kv-gb", 0.1, "--decode-len", 2, *arguments)
    assert run.returncode == 1
    assert names in run.stderr and run.stderr.count("\n") == 1


def test_a_subcommand_is_needed(programs):
    assert bench(programs).returncode != 0
