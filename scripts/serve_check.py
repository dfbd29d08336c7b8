"""fgserve on a backend over HTTP: starts it on a model, asks it what clients ask, traces a few steps, stops it, and compares its answers
with those of the CPU. Needs nothing but Python. The last line is "N passed, N failed, 0 skipped".
"""
import argparse
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from fgserve_process import FgserveProcess  # noqa: E402

START_S = 120
PROMPT = list(range(5, 45))
TIE = 0.3  # bfloat16 may choose otherwise where the two most likely are nearer than this


class Server(FgserveProcess):
    def __init__(self, options, backend, folder):
        command = [options.fgserve, options.model, "--backend", backend, "--port", "0", *options.flag]
        super().__init__(command, {**os.environ, "FG_PROFILE_DIR": str(folder), "FG_PROFILE_ITERS": "4"}, START_S)

    def ask(self, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.read().decode()

    def complete(self, **fields):
        body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True, "return_token_ids": True, "logprobs": 2, **fields}
        return json.loads(self.ask("/v1/completions", body))["choices"][0]


def check_same_answer(server, choice):
    """What was asked before comes again, alone and beside thirty others."""
    with ThreadPoolExecutor(32) as pool:
        others = [pool.submit(server.complete, prompt=[7 + i] * (3 + i), temperature=1.0, seed=i) for i in range(30)]
        again = server.complete()
        assert all(len(other.result()["token_ids"]) == 24 for other in others)
    compare(again, choice)


def compare(got, want):
    """The same tokens up to the first near tie, and logprobs close by."""
    for i, (mine, theirs) in enumerate(zip(got["token_ids"], want["token_ids"], strict=True)):
        top = sorted(want["logprobs"]["top_logprobs"][i].values(), reverse=True)
        if len(top) < 2 or top[0] - top[1] < TIE:
            break
        assert mine == theirs, f"token {i}: {mine}, not {theirs}"
        gap = abs(got["logprobs"]["token_logprobs"][i] - want["logprobs"]["token_logprobs"][i])
        assert gap < TIE / 2, f"token {i}: logprobs are {gap:.3f} apart"


def check_stream(server, choice):
    body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True, "stream": True}
    lines = [line for line in server.ask("/v1/completions", body).splitlines() if line]
    assert lines[-1] == "data: [DONE]", lines[-1]
    text = "".join(json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in lines[:-1])
    # The same words, since a server alone on its machine repeats itself.
    assert text == choice["text"], (text, choice["text"])


def check_trace(server, backend):
    server.process.send_signal(signal.SIGUSR2)
    time.sleep(0.3)
    server.complete()
    found = server.wait_for_line(r"(\d+) steps traced in (\S+\.json)")
    events = json.loads(Path(found[2]).read_text())["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"plan", "launch", "collect"} <= names, names
    kernels = [event for event in events if event.get("cat") in ("kernel", "copy")]
    if backend == "cuda" and not any("cannot be loaded" in line for line in server.log):
        assert kernels, "no kernels in the trace"
    print(f"  trace: {len(events)} events, {len(kernels)} kernels and copies")


def check_end(server):
    assert json.loads(server.ask("/health"))["status"] == "ready"
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0, "".join(server.log)


def run(name, check, counts):
    started = time.monotonic()
    try:
        value = check()
        counts[0] += 1
        print(f"{name}: passed ({time.monotonic() - started:.1f} s)", flush=True)
        return value
    except Exception as error:  # whatever it was, the others go on
        counts[1] += 1
        print(f"{name}: FAILED: {type(error).__name__}: {error}", flush=True)
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--fgserve", type=Path, default=ROOT / "build" / "tools" / "fgserve")
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--flag", action="append", default=[], help="passed on to fgserve; repeatable, as in --flag=--dummy-weights")
    options = parser.parse_args()
    counts = [0, 0]
    with tempfile.TemporaryDirectory() as folder:
        server = run("start", lambda: Server(options, options.backend, folder), counts)
        if server is not None:
            choice = run("an answer", server.complete, counts)
            if choice is not None:
                run("the same answer among thirty others", lambda: check_same_answer(server, choice), counts)
                run("the same answer as a stream", lambda: check_stream(server, choice), counts)
            run("a trace of a few steps", lambda: check_trace(server, options.backend), counts)
            run("health and a clean end", lambda: check_end(server), counts)
            oracle = run("the CPU's start", lambda: Server(options, "cpu", folder), counts)
            if oracle is not None and choice is not None:
                run("the CPU's answer", lambda: compare(choice, oracle.complete()), counts)
                oracle.process.kill()
            server.process.kill()
    print(f"{counts[0]} passed, {counts[1]} failed, 0 skipped")
    return 0 if counts[1] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
