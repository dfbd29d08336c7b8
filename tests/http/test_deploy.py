"""The shipped HAProxy config routes by prefix, loses nothing when a replica drains, and nothing that was not begun when one is killed; the
systemd unit is sound."""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import time

import httpx
import pytest
from conftest import ROOT, Server, binary, free_port, wait_until

DEPLOY = ROOT / "scripts" / "deploy"
SMALL = ("--kv-gb", "0.05", "--backend", "slow:5:echo")


def need(program):
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if path is None:
        pytest.skip(f"lacks {program}")
    return path


class Proxy:
    def __init__(self, replicas):
        self.port = free_port()
        # One connection: the next request is looked at when HAProxy has done with the last one, which counts for its balancing.
        self.client = httpx.Client(timeout=60)
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

    def chat(self, system, text="x", client=None, timeout=60, **fields):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        body = {"messages": messages, "max_tokens": 3, "ignore_eos": True, **fields}
        return (client or self.client).post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=body, timeout=timeout)

    def find(self, name):
        """A beginning that the replica of this name gets."""
        return next(system for system in map(str, range(100)) if self.chat(system, max_tokens=1).json()["model"] == name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def replicas(tiny_model):
    need("haproxy")
    # Ports to which a killed one can come back.
    start = lambda name: Server(tiny_model, *SMALL, "--served-model-name", name, port=free_port())  # noqa: E731
    with start("one") as one, start("two") as two:
        yield one, two


def test_requests_that_begin_alike_go_to_one_replica(replicas):
    with Proxy(replicas) as proxy:
        where = {system: {proxy.chat(system, text).json()["model"] for text in ("a", "b", "c")} for system in map(str, range(24))}
        assert all(len(names) == 1 for names in where.values()), where
        assert set.union(*where.values()) == {"one", "two"}
        keyed = {proxy.chat(system, prompt_cache_key="mine").json()["model"] for system in map(str, range(8))}
        assert len(keyed) == 1
        with httpx.stream("POST", f"http://127.0.0.1:{proxy.port}/v1/completions", json={"prompt": [5], "max_tokens": 200, "stream": True, "ignore_eos": True}) as answer:
            times = [time.monotonic() for line in answer.iter_lines() if line]
        assert times[-1] - times[0] > 0.2  # tokens come as they are made, not in one piece at the end


def test_a_replica_that_drains_takes_no_request_with_it(replicas):
    one, two = replicas
    no_keeping = httpx.Limits(max_keepalive_connections=0)  # a connection for each request, as from many clients
    with Proxy(replicas) as proxy, httpx.Client(timeout=60, limits=no_keeping) as client, concurrent.futures.ThreadPoolExecutor(16) as pool:
        def ask(i):
            answer = proxy.chat(str(i % 16), client=client, max_tokens=20)
            return answer.status_code, answer.json()["model"] if answer.status_code == 200 else answer.text

        answers = [pool.submit(ask, i) for i in range(300)]
        time.sleep(0.5)
        one.process.terminate()  # drains
        results = [answer.result() for answer in answers]
        assert {status for status, _ in results} == {200}, results
        assert one.process.wait(20) == 0
        assert results[-1][1] == "two"
        assert {proxy.chat(str(i)).json()["model"] for i in range(8)} == {"two"}


def num_begun(replica):
    """Requests for answers that it has taken since its start, ended or not."""
    counts = [line for line in httpx.get(replica.url + "/metrics").text.splitlines() if line.startswith("fastgen:http_requests_total")]
    return replica.health()["answers"] + sum(float(line.split()[-1]) for line in counts if "/v1/chat" in line)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_replica_that_is_killed_costs_only_what_it_had_begun(replicas, tiny_model, streaming):
    one, two = replicas
    with Proxy(replicas) as proxy, concurrent.futures.ThreadPoolExecutor(1) as pool:
        ours = proxy.find("one")
        two.wait_idle()
        begun = num_begun(two)
        if streaming:
            body = {"messages": [{"role": "system", "content": ours}], "max_tokens": 6000, "ignore_eos": True, "stream": True}
            with httpx.stream("POST", f"http://127.0.0.1:{proxy.port}/v1/chat/completions", json=body, timeout=60) as stream:
                lines = filter(None, stream.iter_lines())
                seen = [next(lines) for _ in range(10)]
                one.kill()  # SIGKILL
                with pytest.raises(httpx.TransportError):  # cut, and seen to be: the last chunk never comes
                    seen += lines
            assert all('"model":"one"' in line for line in seen) and "data: [DONE]" not in seen
        else:
            # On a connection of its own: on one that had an answer before, HAProxy ends the connection instead.
            answer = pool.submit(proxy.chat, ours, client=httpx, max_tokens=6000)
            wait_until(lambda: one.health()["running"] == 1)
            one.kill()
            assert answer.result().status_code == 502
        assert num_begun(two) == begun  # it was not sent again
        # What comes now was not begun, so the other one takes it, from the first request on.
        answers = [proxy.chat(str(i)) for i in range(16)]
        assert {(answer.status_code, answer.json()["model"]) for answer in answers} == {(200, "two")}
        with Server(tiny_model, *SMALL, "--served-model-name", "one", port=one.port):
            wait_until(lambda: proxy.chat(ours).json()["model"] == "one")


def num_connections_to(port):
    """Those of this machine that are open on the other side of that port."""
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established, close_wait = "01", "08"
    return sum(int(row[2].rpartition(":")[2], 16) == port and row[3] in (established, close_wait) for row in rows)


def test_a_replica_that_is_killed_at_rest_is_not_missed(replicas):
    one, two = replicas
    with Proxy(replicas) as proxy:
        ours = proxy.find("two")
        two.kill()
        wait_until(lambda: num_connections_to(two.port) == 0)  # HAProxy may keep one, and sees its end
        answers = [proxy.chat(system) for system in [ours, *map(str, range(16)), ours]]
        assert {(answer.status_code, answer.json()["model"]) for answer in answers} == {(200, "one")}


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
