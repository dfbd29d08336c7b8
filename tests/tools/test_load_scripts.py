"""scripts/make-random-model and scripts/bench-load: a folder that loads, and figures of loading it."""

import json
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_a_random_model_loads_and_its_loading_is_measured(programs, tmp_path):
    config = json.loads((ROOT / "tests" / "configs" / "smollm2-135m" / "config.json").read_text())
    config.update(num_hidden_layers=3, vocab_size=401, tie_word_embeddings=False, max_position_embeddings=512)
    source, model = tmp_path / "config", tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    shutil.copy(ROOT / "tests" / "golden" / "tokens" / "byte_level" / "tokenizer.json", source)
    made = subprocess.run(
        [ROOT / "scripts" / "make-random-model", source, model, "--shard-bytes", "9000000"], capture_output=True, text=True, timeout=60
    )
    assert made.returncode == 0, made.stderr
    files = sorted(path.name for path in model.glob("*.safetensors"))
    assert len(files) > 1 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"

    output = tmp_path / "load.json"
    run = subprocess.run(
        [ROOT / "scripts" / "bench-load", model, "--backend", "cpu", "--fgserve", programs / "fgserve", "--runs", "1", "--flag=--kv-gb=0.05",
         "--output", output],
        capture_output=True, text=True, timeout=120,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(output.read_text())
    assert report["gb"] == round(sum((model / name).stat().st_size for name in files) / 1e9, 3)
    assert report["plain_read_s"]["median"] > 0 and 0 < report["weights_s"]["median"] <= report["start_s"]["median"]
