"""SIGUSR2: the next steps as a trace that Chrome and Perfetto read."""

import json
import pathlib
import re
import signal
import time

import httpx
import pytest
from conftest import Server, wait_until


def complete(server, **fields):
    body = {"prompt": [5, 6, 7], "max_tokens": 40, "ignore_eos": True, **fields}
    assert httpx.post(server.url + "/v1/completions", json=body, timeout=60).status_code == 200


def is_pending(server, number):
    status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"^ShdPnd:\s+(\w+)", status, re.MULTILINE)[1], 16) >> (number - 1) & 1


def test_sigusr2_writes_the_next_steps(tiny_model, tmp_path):
    environment = {"FG_PROFILE_ITERS": "5", "FG_PROFILE_DIR": str(tmp_path)}
    with Server(tiny_model, "--backend", "echo", "--kv-gb", "0.1", env=environment) as server:
        server.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: not is_pending(server, signal.SIGUSR2))
        time.sleep(0.2)
        complete(server)
        found = server.wait_for_line(r"(\d+) steps traced in (\S+)")
        assert found[1] == "5" and found[2].startswith(str(tmp_path))
        events = json.loads(open(found[2]).read())["traceEvents"]
        threads = {event["args"]["name"]: event["tid"] for event in events if event["name"] == "thread_name"}
        host = [event for event in events if event.get("cat") == "host"]
        of_engine = {event["name"] for event in host if event["tid"] == threads["engine"]}
        assert {"plan", "pack", "launch", "wait", "collect", "emit"} <= of_engine
        steps = [event for event in events if event.get("cat") == "step" and event["ph"] == "b"]
        assert len(steps) == 6  # the first only opens the stretch
        assert steps[0]["args"]["prefill_tokens"] == 3
        assert [step["args"]["decode_rows"] for step in steps[1:]] == [1] * 5
        assert {event["name"] for event in events if event.get("cat") == "request"} >= {"queued", "prefill"}
        # Spans of one thread follow each other or nest.
        for tid in threads.values():
            ends = []
            for event in sorted((e for e in host if e["tid"] == tid), key=lambda e: (e["ts"], -e["dur"])):
                while ends and ends[-1] <= event["ts"] + 0.0005:
                    ends.pop()
                assert not ends or event["ts"] + event["dur"] <= ends[-1] + 0.0005
                ends.append(event["ts"] + event["dur"])
        complete(server)  # and it goes on
        server.check_end()


def events_of(answer):
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/json")
    return answer.json()["traceEvents"]


def test_the_flight_recorder_over_http(echo):
    complete(echo)
    events = events_of(httpx.get(echo.url + "/debug/trace?ms=60000"))
    assert {"plan", "launch", "collect", "parse", "tokenize", "write"} <= {event["name"] for event in events if event.get("cat") == "host"}
    assert {"engine", "io 0"} <= {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    finished = [event for event in events if event.get("cat") == "request" and event["name"] == "decode" and event["ph"] == "b"]
    assert any(event["args"]["output_tokens"] == 40 and event["args"]["prompt_tokens"] == 3 for event in finished)
    time.sleep(0.3)
    assert not [e for e in events_of(httpx.get(echo.url + "/debug/trace?ms=100")) if e.get("cat") in ("step", "request")]
    events_of(httpx.get(echo.url + "/debug/trace"))
    for bad in ("0", "-5", "x", "1e3", "99999999999", "5x"):
        answer = httpx.get(echo.url + f"/debug/trace?ms={bad}")
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "ms"
    assert httpx.post(echo.url + "/debug/trace").status_code == 405


def test_a_stall_writes_what_hangs(tiny_model, tmp_path):
    environment = {"FG_PROFILE_DIR": str(tmp_path)}
    with Server(tiny_model, "--backend", "stall-after:5:echo", "--kv-gb", "0.1", "--stall-s", "1", env=environment) as server:
        with pytest.raises(httpx.HTTPError):
            httpx.post(server.url + "/v1/completions", json={"prompt": [5], "max_tokens": 40, "ignore_eos": True}, timeout=3)
        found = server.wait_for_line(r"stall: .* is in (\S+)")
        engine = [event for event in json.loads(open(found[1]).read())["traceEvents"] if event.get("cat") == "host" and event["dur"] > 500_000]
        assert engine, "the open span of the engine thread is not there"
