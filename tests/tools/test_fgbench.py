"""fgbench offline, op and roofline: the tables, the JSON records, and what is refused."""

import json
import os
import signal
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


def test_what_is_preempted_is_paged(programs, tiny, tmp_path):
    """40 blocks of 4 tokens, 20 bytes each: eight sequences of 72 tokens do not fit beside each other."""
    path = tmp_path / "out.json"
    run = bench(programs, "offline", tiny, "--backend", "slow:5:echo", "--case", "8x32+40", "--block-size", 4, "--kv-gb", 40 * 4 * 20e-9,
                "--host-kv-gb", 1000 * 4 * 20e-9, "--max-model-len", 160, "--warmup", 0, "--json", path)
    assert run.returncode == 0, run.stderr
    results = json.loads(path.read_text())["results"]
    assert 0 < results["num_page_ins"] == results["num_page_outs"] == results["num_preemptions"]
    assert f"({results['num_page_outs']} paged out, {results['num_page_ins']} paged in)" in run.stdout
    assert json.loads(path.read_text())["config"]["host_kv_tokens"] == 4000


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
    (["--case", "5x"], "--case 5x"),
    (["--case", "5x6+7y"], "--case 5x6+7y"),
])
def test_a_case_is_refused_by_name(programs, tiny, arguments, names):
    run = bench(programs, "offline", tiny, "--backend", "echo", "--kv-gb", 0.1, *arguments)
    assert run.returncode == 1
    assert names in run.stderr and run.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments, names", [
    (["decode-attention", "--lengths", "3y"], "--lengths 3y"),
    (["prefill-attention", "--chunks", "3x9:4"], "--chunks 3x9:4"),
    (["norm", "--backend", "echo", "--ceilings", "/nowhere"], "--ceilings /nowhere"),
    (["norm", "--backend", "echo"], "--backend echo"),
    (["norm", "--dtype", "int3"], "--dtype int3"),
])
def test_an_op_is_refused_by_name(programs, tiny, arguments, names):
    run = bench(programs, "op", *arguments, "--model", tiny)
    assert run.returncode == 1
    assert names in run.stderr and run.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments, names", [
    (["--prompt-len", 4000], "--prompt-len 4000"),
    (["--num-prompts", 300, "--prompt-len", 1], "--num-prompts, --warmup: there are no 301"),
    (["--json", "/nowhere/out.json"], "/nowhere/out.json"),
    (["--profile-steps", 50], "--profile-steps 50"),
])
def test_what_cannot_be_is_refused_by_name(programs, tiny, arguments, names):
    run = bench(programs, "offline", tiny, "--backend", "echo", "--kv-gb", 0.1, "--decode-len", 2, *arguments)
    assert run.returncode == 1
    assert names in run.stderr and run.stderr.count("\n") == 1


def test_several_runs_in_one_process(programs, tiny, tmp_path):
    path = tmp_path / "out.json"
    run = bench(programs, "offline", tiny, "--backend", "echo", "--kv-gb", 0.1, "--sweep", "2,9", "--batch", "3,1", "--prompt-len", 12,
                "--repeats", 2, "--json", path)
    assert run.returncode == 0, run.stderr
    runs = json.loads(path.read_text())["runs"]
    shapes = [(r["num_prompts"], r["prompt_len"], r["decode_len"], r["repeat"]) for r in runs]
    assert shapes == [(n, 12, d, repeat) for repeat in range(2) for n in (3, 1) for d in (2, 9)]
    for r in runs:
        assert r["results"]["output_tokens"] == r["num_prompts"] * r["decode_len"]
        assert "percent_of_ceiling" not in r["results"]  # echo computes nothing that a ceiling could hold
    run = bench(programs, "offline", tiny, "--backend", "echo", "--kv-gb", 0.1, "--case", "5x20+3,1x7+1", "--json", path)
    assert [(r["results"]["prompt_tokens"], r["results"]["output_tokens"]) for r in json.loads(path.read_text())["runs"]] == [(100, 15), (7, 1)]


def write_ceilings(tmp_path):
    path = tmp_path / "ceilings.json"
    path.write_text(json.dumps({"ceilings": {"device": "made up", "read_gb_per_s": 10.0, "product_tflop_per_s": 0.1}}))
    return path


def test_figures_stand_beside_the_ceiling(programs, tiny, tmp_path):
    path = tmp_path / "out.json"
    run = bench(programs, "offline", tiny, "--dummy-weights", "--kv-gb", 0.1, "--case", "2x16+8", "--ceilings", write_ceilings(tmp_path),
                "--json", path)
    assert run.returncode == 0, run.stderr
    results = json.loads(path.read_text())["results"]
    for name in ("output", "prefill", "decode"):
        assert results["percent_of_ceiling"][name] == pytest.approx(
            100 * results[f"{name}_tokens_per_s"] / results["ceiling"][f"{name}_tokens_per_s"])
    assert "% of" in run.stdout


def test_steps_of_decode_go_into_a_trace(programs, tiny, tmp_path):
    path, trace = tmp_path / "out.json", tmp_path / "steps.json"
    run = bench(programs, "offline", tiny, "--backend", "slow:5:echo", "--kv-gb", 0.1, "--case", "3x8+40", "--profile-steps", 10,
                "--profile-file", trace, "--json", path)
    assert run.returncode == 0, run.stderr
    record = json.loads(path.read_text())["results"]["trace"]
    assert record["num_steps"] == 10 and record["wall_ms"] > 0 and record["file"] == str(trace)
    steps = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("cat") == "step" and e["ph"] == "b"]
    assert len(steps) == 11 and {(s["args"]["decode_rows"], s["args"]["prefill_tokens"]) for s in steps} == {(3, 0)}
    assert f"10 steps traced" in run.stdout


def test_roofline_and_ops_on_the_cpu(programs, tiny, tmp_path):
    ceilings, path = tmp_path / "roofline.json", tmp_path / "op.json"
    run = bench(programs, "roofline", "--cold-mb", 8, "--sample-ms", 1, "--threads", 1, "--json", ceilings)
    assert run.returncode == 0, run.stderr
    measured = json.loads(ceilings.read_text())["ceilings"]
    assert 0.1 < measured["read_gb_per_s"] < 1000 and 0.1 < measured["copy_gb_per_s"] < 1000
    assert 1e-4 < measured["product_tflop_per_s"] < 100
    run = bench(programs, "op", "decode-attention", "prefill-attention", "products", "sampling", "norm", "--model", tiny, "--threads", 1,
                "--cold-mb", 2, "--sample-ms", 0.5, "--batch", "1,3", "--context", "5,100", "--chunks", "2x9,1x8:70", "--rows", "1,7",
                "--draws", "greedy,temperature,top-k,top-p,penalties", "--ceilings", ceilings, "--json", path)
    assert run.returncode == 0, run.stderr
    record = json.loads(path.read_text())
    results = {(r["op"], r["case"]): r for r in record["results"]}
    assert len(results) == 4 + 2 + 5 * 2 + 5 * 2 + 2
    # By hand, of the tiny model: 4 heads, 2 KV heads of 16, dim 64, ffn 128.
    attention = results["decode-attention", "3x100"]
    assert attention["flops"] == 3 * 100 * 4 * 64 and attention["bytes"] == 3 * 100 * 2 * 32 * 2 + 2 * 3 * 64 * 2
    assert results["prefill-attention", "2x9"]["flops"] == 2 * 45 * 4 * 64
    assert results["prefill-attention", "1x8:70"]["flops"] == sum(range(63, 71)) * 4 * 64
    assert results["products", "gate-up of 7"]["flops"] == 2 * 7 * 256 * 64
    assert results["products", "qkv of 1"]["bytes"] == 2 * 128 * 64 + 2 * 64 + 2 * 128
    assert results["norm", "7 rows"]["bytes"] == 7 * 64 * (3 * 4 + 2)
    for r in record["results"]:
        assert 0 < r["us_least"] <= r["us"] < 1e6
        assert r["gb_per_s"] == pytest.approx(r["bytes"] / r["us"] * 1e-3)


def test_a_signal_traces_a_run(programs, tiny, tmp_path):
    environment = {**os.environ, "FG_PROFILE_ITERS": "6", "FG_PROFILE_DIR": str(tmp_path)}
    process = subprocess.Popen([programs / "bench" / "fgbench", "offline", tiny, "--backend", "slow:5:echo", "--kv-gb", "0.1", "--case", "1x8+200"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert "loaded in" in process.stdout.readline()
    process.send_signal(signal.SIGUSR2)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "6 steps traced" in output
    (trace,) = tmp_path.glob("*.trace.json")
    assert json.loads(trace.read_text())["traceEvents"]


def test_a_subcommand_is_needed(programs):
    assert bench(programs).returncode != 0
