"""What the parts of scripts/load-test share: the programs, a running fgserve, and figures of runs in pairs."""

import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "tools")]
from fgserve_process import FgserveProcess  # noqa: E402
from tiny_folder import byte_characters  # noqa: E402

START_S = 180
# Student's t, two-sided 95 %, by degrees of freedom; the last one serves for more, on the safe side.
T_95 = [math.nan, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
        2.101, 2.093, 2.086]


def say(text):
    print(f"load-test: {text}", flush=True)


def percentile(buckets, share):
    """Of a Prometheus histogram, its buckets (upper bound, how many up to it) in order; linear within a bucket, as Prometheus has it."""
    wanted, low, below = share * buckets[-1][1], 0.0, 0
    for high, count in buckets:
        if count >= wanted:
            return low if high == float("inf") or count == below else low + (high - low) * (wanted - below) / (count - below)
        low, below = high, count
    return low


def write_times(buckets):
    """Milliseconds from a step's result to the return of the write of each of its events."""
    return {f"p{p}": 1e3 * percentile(buckets, p / 100) for p in (50, 90, 99)}


def in_pairs(offline, http):
    """What HTTP loses, in percent of offline's tokens/s: the mean of the pairs, and how far from it the true mean may be (95 %)."""
    lost = [100 * (1 - b / a) for a, b in zip(offline, http, strict=True)]
    spread = {}
    if len(lost) > 1:
        spread["lost_percent_plus_minus"] = T_95[min(len(lost) - 1, len(T_95) - 1)] * statistics.stdev(lost) / math.sqrt(len(lost))
    return {"offline_tokens_per_s": statistics.median(offline), "http_tokens_per_s": statistics.median(http),
            "lost_percent": statistics.mean(lost), **spread, "offline_runs": offline, "http_runs": http}


def say_pairs(burst):
    within = f" +- {burst['lost_percent_plus_minus']:.2f}" if "lost_percent_plus_minus" in burst else ""
    say(f"{len(burst['http_runs'])} pairs, medians {burst['offline_tokens_per_s']:.1f} and {burst['http_tokens_per_s']:.1f} tokens/s; "
        f"HTTP loses {burst['lost_percent']:.2f}{within} % (95 %)")


class Server(FgserveProcess):
    """A running fgserve, as a context."""

    def __init__(self, program, *arguments):
        super().__init__([program, *arguments, "--port", "0"], dict(os.environ), START_S)

    def task(self, name):
        """The kernel's folder of the thread of that name."""
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            if (task / "comm").read_text().strip() == name:
                return task
        raise RuntimeError(f"fgserve has no thread \"{name}\"")

    def cpu_s(self, threads):
        """CPU time of these threads, from the kernel's scheduler, in seconds."""
        return sum(int((self.task(name) / "schedstat").read_text().split()[0]) for name in threads) * 1e-9

    def rss_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)[1])

    def write_buckets(self):
        """Events by the time from their step's result to the return of their write: upper bounds in seconds, and how many up to each."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=60) as answer:
            text = answer.read().decode()
        return [(float(bound), int(count)) for bound, count in re.findall(r'event_write_seconds_bucket\{.*le="(.*)"\} (\d+)', text)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            pass
        self.kill()


class Programs:
    def __init__(self, fgserve, fgbench):
        self.fgserve, self.fgbench = fgserve, fgbench

    def bench(self, *arguments):
        """The record that fgbench wrote."""
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            run = subprocess.run([self.fgbench, *map(str, arguments), "--json", out.name], capture_output=True, text=True)
            if run.returncode != 0:
                raise RuntimeError(f"fgbench {' '.join(map(str, arguments))}:\n{run.stderr}{run.stdout}")
            return json.loads(pathlib.Path(out.name).read_text())

    def load(self, server, *arguments):
        """The one run of fgbench serve, and its record."""
        where = [] if "--url" in arguments else ["--url", server.url]
        record = self.bench("serve", *where, "--quiet", *arguments)
        (run,) = record["runs"]
        if run["failed"]:
            raise RuntimeError(f"{run['failed']} requests failed")
        return run, record

    def offline_burst(self, model, flags, prompts, input_len, output_len, warmup):
        """Tokens/s of the engine alone."""
        record = self.bench("offline", model, *flags, "--no-ceilings", "--warmup", warmup, "--case", f"{prompts}x{input_len}+{output_len}")
        return record["results"]["output_tokens_per_s"], record

    def http_burst(self, model, flags, prompts, input_len, output_len, warmup):
        """Tokens/s of the same requests through fgserve, all at once."""
        with Server(self.fgserve, model, *flags) as server:
            run, _ = self.load(server, "--num-prompts", prompts, "--input-len", input_len, "--output-len", output_len, "--vocab", vocab_of(model),
                               "--warmup", warmup)
        return run["output_throughput"]

    def burst_pair(self, turn, *shape):
        """Both, the first of them in turns. Returns offline's tokens/s, HTTP's, and a record of fgbench."""
        if turn % 2:
            http = self.http_burst(*shape)
            offline, record = self.offline_burst(*shape)
        else:
            offline, record = self.offline_burst(*shape)
            http = self.http_burst(*shape)
        return offline, http, record


def vocab_of(model):
    return json.loads((pathlib.Path(model) / "config.json").read_text())["vocab_size"]


def servable(model, scratch):
    """The folder, or one in `scratch` of the same config with a tokenizer: each id is a word, so that each token is an event, as tokens of
    text are."""
    if any((model / name).exists() for name in ("tokenizer.json", "tokenizer.model", "tekken.json")):
        return model
    folder = scratch / model.name
    folder.mkdir()
    (folder / "config.json").write_text((model / "config.json").read_text())
    names = byte_characters()
    names += [f"Ġ{i}" for i in range(len(names), vocab_of(model))]  # a space and a number
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": byte_level,
        "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "vocab": {name: i for i, name in enumerate(names)}, "merges": []}}))
    return folder
