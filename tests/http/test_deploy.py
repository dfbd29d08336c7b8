"""The shipped HAProxy config routes by prefix, loses nothing when a replica drains; the systemd unit is sound."""

import concurrent.futures
import os
import shutil
import socket
import subprocess
import time

import httpx
import pytest
from conftest import ROOT, Server, binary

DEPLOY = ROOT / "scripts" / "deploy"
SMALL = ("--kv-gb", "0.05", "--backend", "slow:5:echo")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def need(program):
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if path is None:
        pytest.skip(f"lacks {program}")
    return path


class Proxy:
    def __init__(self, replicas):
        self.port = free_port()
        environment = {**os.environ, "FG_FRONT": f"127.0.0.1:{self.port}", **{f"FG_REPLICA_{i + 1}": f"127.0.0.1:{r.port}" for i, r in enumerate(replicas)}}
        self.process = subprocess.Popen([need("haproxy"), "-f", DEPLOY / "haproxy.cfg", "-db"], env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                if self.chat("warm", max_tokens=1).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.1)

    def chat(self, system, text="x", **fields):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        body = {"messages": messages, "max_tokens": 3, "ignore_eos": True, **fields}
        return httpx.post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=body, timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def replicas(tiny_model):
    need("haproxy")
    with Server(tiny_model, *SMALL, "--served-model-name", "one") as one, Server(tiny_model, *SMALL, "--served-model-name", "two") as two:
        yield one, two


def test_requests_that_begin_alike_go_to_one_replica(replicas):
    with Proxy(replicas) as proxy:
        where = {system: {proxy.chat(system, text).json()["model"] for text in ("a", "b", "c")} for system in map(str, range(24))}
        assert all(len(names) == 1 for names in where.values()), where
        assert set.union(*where.values()) == {"one", "two"}
        keyed = {proxy.chat(system, prompt_cache_key="mine").json()["model"] for system in map(str, range(8))}
        assert len(keyed) == 1
        with httpx.stream("POST", f"http://127.0.0.1:{proxy.port}/v1/completions", json={"prompt": [5], "max_tokens": 60, "stream": True, "ignore_eos": True}) as answer:
            times = [time.monotonic() for line in answer.iter_lines() if line]
        assert times[-1] - times[0] > 0.2  # tokens come as they are made, not in one piece at the end


def test_a_replica_that_drains_takes_no_request_with_it(replicas):
    one, two = replicas
    with Proxy(replicas) as proxy, concurrent.futures.ThreadPoolExecutor(16) as pool:
        def ask(i):
            answer = proxy.chat(str(i % 16), max_tokens=20)
            return answer.status_code, answer.json().get("model")

        answers = [pool.submit(ask, i) for i in range(300)]
        time.sleep(0.5)
        one.process.terminate()  # drains
        results = [answer.result() for answer in answers]
        assert {status for status, _ in results} == {200} and one.process.wait(20) == 0
        assert results[-1][1] == "two"
        assert {proxy.chat(str(i)).json()["model"] for i in range(8)} == {"two"}


def test_the_systemd_unit_is_sound(tmp_path):
    analyze = need("systemd-analyze")
    unit = (DEPLOY / "fgserve@.service").read_text().replace("/usr/local/bin/fgserve", str(binary()))
    assert str(binary()) in unit and "/health/ready" in unit
    (tmp_path / "fgserve@5678.service").write_text(unit)
    run = subprocess.run([analyze, "verify", "--man=no", tmp_path / "fgserve@5678.service"], capture_output=True, text=True)
    if "Failed to" in run.stderr and "bus" in run.stderr:
        pytest.skip("lacks what systemd-analyze needs")
    problems = [line for line in run.stderr.splitlines() if "fgserve@" in line]
    assert not problems, problems
