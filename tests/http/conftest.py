"""Starts fgserve for the tests. The binary is $FG_BUILD/tools/fgserve (default: build/)."""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ASSETS = pathlib.Path(os.environ.get("FG_ASSETS") or ROOT.parent / "shared" / "assets")
sys.path.insert(0, str(ROOT / "tests" / "support"))

from fgserve_process import FgserveProcess  # noqa: E402

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TINY_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 401,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def binary():
    build = pathlib.Path(os.environ.get("FG_BUILD") or ROOT / "build")
    path = (build if build.is_absolute() else ROOT / build) / "tools" / "fgserve"
    if not path.exists():
        pytest.skip(f"lacks {path}")
    return path


def sanitizer_options():
    """The address sanitizer keeps freed memory for a while, 256 MB unless told: the tests' memory bounds are tighter."""
    return {"ASAN_OPTIONS": ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "quarantine_size_mb=16"]))}


def wait_until(is_so, seconds=30):
    """For what comes sooner or later: no pause is long enough on a machine that has other work."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def free_port():
    """A port to listen on later: none of those that the kernel gives to connections, which one might take in the meantime."""
    lowest, highest = map(int, pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    others = [port for port in range(10000, 65536) if not lowest <= port <= highest] or range(10000, 65536)
    for port in random.SystemRandom().sample(others, 100):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise RuntimeError("a hundred ports are taken")


class Server(FgserveProcess):
    """A running fgserve on a port of its own."""

    def __init__(self, *args, port=0, env=None, wait_s=60):
        command = [binary(), *args, "--port", port]
        environment = {"FG_PROFILE_DIR": tempfile.gettempdir(), **os.environ, **sanitizer_options(), **(env or {})}
        super().__init__(command, environment, wait_s)
        self.port = int(self.url.rsplit(":", 1)[1])

    @property
    def pid(self):
        return self.process.pid

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def refuses_connections(self):
        try:
            self.connect().close()
        except OSError:
            return True
        return False

    def health(self):
        with urllib.request.urlopen(self.url + "/health", timeout=30) as answer:
            return json.load(answer)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss_bytes(self):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def wait_idle(self, seconds=10, max_connections=1 << 30):
        """Until nothing is left of earlier requests; the last health if that does not come."""
        deadline = time.monotonic() + seconds
        while True:
            health = self.health()
            busy = health["tickets_in_use"] or health["running"] or health["waiting"] or health["answers"]
            if (not busy and health["connections"] <= max_connections) or time.monotonic() > deadline:
                return health
            time.sleep(0.02)

    def stop(self, signal_number=signal.SIGTERM, seconds=30):
        self.process.send_signal(signal_number)
        return self.process.wait(seconds)

    def check_end(self):
        """Still alive, ends cleanly, and in a sanitizer build nothing was reported (leaks come at the end)."""
        assert self.process.poll() is None, "".join(self.log)
        status = self.stop()
        self.reader.join(5)
        log = "".join(self.log)
        assert status == 0 and "Sanitizer" not in log and "runtime error" not in log, log

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A model folder without weights, from what the repository itself holds."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG))
    shutil.copy(ROOT / "tests" / "golden" / "tokens" / "byte_level" / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}))
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


@pytest.fixture(scope="session")
def long_model(tiny_model, tmp_path_factory):
    """The tiny model with room for answers that take seconds."""
    folder = tmp_path_factory.mktemp("long") / "long-model"
    shutil.copytree(tiny_model, folder)
    (folder / "config.json").write_text(json.dumps({**TINY_CONFIG, "max_position_embeddings": 200000}))
    return folder


@pytest.fixture(scope="session")
def echo(tiny_model):
    """A server on the echo backend: every token can be recomputed (tests/support/echo_check.py)."""
    with Server(tiny_model, "--backend", "echo", "--kv-gb", "0.1") as server:
        yield server
        server.check_end()


@pytest.fixture(scope="session")
def smollm2():
    """The folder of the real model that scripts/get-model makes."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = pathlib.Path(os.environ.get("FG_MODEL") or cache / "fastgen" / "SmolLM2-135M-Instruct")
    if not (folder / "config.json").exists():
        pytest.skip(f"lacks {folder} (scripts/get-model)")
    return folder


@pytest.fixture(scope="session")
def smollm2_server(smollm2):
    with Server(smollm2, "--kv-gb", "1") as server:
        yield server
        server.check_end()


@pytest.fixture(scope="session")
def golden_chats():
    path = ASSETS / "goldens" / "smollm2"
    files = sorted(path.glob("*.jsonl")) if path.exists() else []
    if not files:
        pytest.skip(f"lacks {path}")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
