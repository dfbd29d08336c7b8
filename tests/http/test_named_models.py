"""Each model that the README names starts from its config alone: random weights, one layer, a tokenizer smaller than the
model's vocabulary (so that most ids that are drawn have no text)."""

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest
from conftest import ROOT, TINY_CONFIG, Server, binary

CONFIGS = ROOT / "tests" / "configs"
NAMES = sorted(path.name for path in CONFIGS.iterdir())


def told_apart_by_stop_tokens_alone(name):
    """What the model is, without what tells Llama 3.3 70B from R1-Distill-Llama 70B: gigabytes are made once for such a pair."""
    config = json.loads((CONFIGS / name / "config.json").read_text())
    return json.dumps({k: v for k, v in sorted(config.items()) if k not in ("eos_token_id", "transformers_version")})


STARTED = list({told_apart_by_stop_tokens_alone(name): name for name in reversed(NAMES)}.values())


def ask(server, **fields):
    body = json.dumps({"prompt": "Hello", "max_tokens": 3, "ignore_eos": True, **fields}).encode()
    request = urllib.request.Request(server.url + "/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def make_folder(tmp_path, name, generation=None):
    folder = tmp_path / name
    shutil.copytree(CONFIGS / name, folder)
    shutil.copy(ROOT / "tests" / "golden" / "tokens" / "byte_level" / "tokenizer.json", folder)
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


SMALL = ["--dummy-weights", "--kv-gb", "0.1", "--max-model-len", "256", "--max-batch", "4", "--max-prefill", "64"]


@pytest.mark.parametrize("name", STARTED)
def test_starts_with_one_layer(name, tmp_path):
    if os.environ.get("FG_MODEL", "").endswith("no-model-under-sanitizers"):
        pytest.skip("lacks a build without sanitizers, in which gigabytes of weights take minutes")
    folder = make_folder(tmp_path, name)
    with Server(folder, *SMALL, "--layers", 1, wait_s=240) as server:
        answer = ask(server, logprobs=0)
        assert answer["usage"]["completion_tokens"] == 3
        logprobs = answer["choices"][0]["logprobs"]["token_logprobs"]
        vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
        # Random weights say little: no logprob is far below that of a uniform draw.
        assert all(-25 < value < 0 for value in logprobs), (vocabulary, logprobs)
        server.check_end()


def test_generation_config_is_what_requests_draw_by(tmp_path):
    name = "smollm2-135m"
    generation = {"do_sample": True, "temperature": 0.01, "top_p": 0.5, "top_k": 7, "eos_token_id": [2, 0]}
    with Server(make_folder(tmp_path, name, generation), *SMALL, "--layers", 1) as server:
        assert any("temperature 0.01, top_p 0.5, top_k 7" in line for line in server.log)
        greedy = ask(server, temperature=0, max_tokens=8, return_token_ids=True)["choices"][0]["token_ids"]
        # At temperature 0.01 the draw is the likeliest token but for ties.
        assert ask(server, max_tokens=8, return_token_ids=True)["choices"][0]["token_ids"] == greedy
        hot = [ask(server, temperature=2, top_p=1, top_k=-1, max_tokens=8, return_token_ids=True) for _ in range(3)]
        assert any(answer["choices"][0]["token_ids"] != greedy for answer in hot)
        server.check_end()


def test_a_chat_of_a_folder_without_template_is_in_its_familys_format(tmp_path):
    config = TINY_CONFIG | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 512, "sliding_window": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(ROOT / "tests" / "golden" / "tokens" / "tekken" / "tekken.json", tmp_path)
    goldens = (ROOT / "tests" / "golden" / "templates" / "mistral_v3_tekken.jsonl").read_text().splitlines()
    with Server(tmp_path, "--dummy-weights") as server:
        assert any("the model has no chat template: that of its family is used" in line for line in server.log)
        for golden in map(json.loads, goldens[:12]):
            body = json.dumps({"messages": golden["messages"], "max_tokens": 1}).encode()
            request = urllib.request.Request(server.url + "/v1/chat/completions", body, {"Content-Type": "application/json"})
            if "ids" in golden:
                assert json.load(urllib.request.urlopen(request, timeout=60))["usage"]["prompt_tokens"] == len(golden["ids"]), golden
                continue
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=60)
            assert refused.value.code == 400 and "chat template refuses" in json.load(refused.value)["error"]["message"]
        server.check_end()


def test_layers_are_for_dummy_weights_alone(tmp_path):
    folder = make_folder(tmp_path, "smollm2-135m")
    run = subprocess.run([binary(), folder, "--layers", "3"], capture_output=True, text=True)
    assert run.returncode == 1 and "--layers needs --dummy-weights" in run.stderr
    run = subprocess.run([binary(), folder, "--dummy-weights", "--layers", "31"], capture_output=True, text=True)
    assert run.returncode == 1 and "--layers must be between 1 and 30" in run.stderr


def test_every_named_model_is_started_or_has_a_twin_that_is():
    assert len(NAMES) == 14
    assert sorted(set(NAMES) - set(STARTED)) == ["r1-distill-llama-70b", "r1-distill-llama-8b"]


def plan(*args):
    return subprocess.run([binary(), "plan", *map(str, args)], capture_output=True, text=True)


def test_plan_says_what_fits():
    run = plan(CONFIGS / "llama-3.1-8b", "--lengths", "8192")
    assert run.returncode == 0, run.stderr
    assert "8030261248" in run.stdout and "KV: 131072 bytes per token" in run.stdout
    assert "does not fit" not in run.stdout


def test_plan_counts_by_the_config_where_the_weights_are_not_whole(tmp_path):
    folder = make_folder(tmp_path, "llama-3.1-8b")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    run = plan(folder)
    assert run.returncode == 0, run.stderr
    assert "not whole" in run.stdout and "model-1.safetensors" in run.stdout and "8030261248" in run.stdout


def test_plan_says_what_does_not_fit_and_why():
    run = plan(CONFIGS / "r1-distill-llama-70b")
    assert run.returncode == 2, run.stderr
    assert "does not fit: the weights alone are 141.11 GB, over the 141.00 GB there are: 2 cards" in run.stdout
    run = plan(CONFIGS / "llama-3.1-8b", "--memory-gb", "17")
    assert run.returncode == 2 and "no block of KV fits beside them" in run.stdout
    run = plan(CONFIGS / "llama-3.1-8b", "--memory-gb", "24")
    assert run.returncode == 0 and "does not fit: one sequence of the model's whole context" in run.stdout


@pytest.mark.parametrize("args, message", [
    (["--card", "h999"], "--card h999: not one of h200"),
    (["--dtype", "int4"], "--dtype int4: not one of"),
])
def test_plan_refuses_by_name(args, message):
    run = plan(CONFIGS / "mistral-7b", *args)
    assert run.returncode == 1 and message in run.stderr


def test_a_config_key_that_nobody_knows_is_refused_by_name_until_told_otherwise(tmp_path):
    folder = make_folder(tmp_path, "smollm2-135m", {"new_way_to_draw": 0.5})
    config = json.loads((folder / "config.json").read_text()) | {"new_scale": 0.5}
    (folder / "config.json").write_text(json.dumps(config))
    run = subprocess.run([binary(), folder, "--dummy-weights", "--layers", "1"], capture_output=True, text=True)
    assert run.returncode == 1 and "config.json: new_scale is not known and might change results" in run.stderr, run.stderr
    run = plan(folder, "--ignore-config-keys", "new_scale")
    assert run.returncode == 1 and "generation_config.json: new_way_to_draw is not known" in run.stderr, run.stderr
    assert plan("--ignore-config-keys", "new_scale,new_way_to_draw", folder).returncode == 0
    with Server("--ignore-config-keys", "new_scale,new_way_to_draw", folder, *SMALL, "--layers", 1) as server:
        assert any("new_scale is ignored, as --ignore-config-keys says" in line for line in server.log)
        server.check_end()


def test_plan_of_a_folder_without_config(tmp_path):
    run = plan(tmp_path)
    assert run.returncode == 1 and str(tmp_path) in run.stderr
