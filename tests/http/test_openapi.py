"""schemathesis reads /openapi.json and asks what it finds there, in the ways that the schema allows and in others."""

import contextlib
import json
import os
import random
import time

import httpx
import pytest

schemathesis = pytest.importorskip("schemathesis", reason="lacks schemathesis")
from conftest import Server  # noqa: E402
from hypothesis import HealthCheck, given, seed, settings  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.core.failures import Failure  # noqa: E402

NUM_EXAMPLES = int(os.environ.get("FG_TEST_EXAMPLES", 25))


@pytest.fixture(scope="module")
def echo(tiny_model):
    """With a short context: the schema allows 128 choices of several prompts, each as long as the context, and asks for them."""
    with Server(tiny_model, "--backend", "echo", "--kv-gb", "0.1", "--max-model-len", "256") as server:
        yield server
        server.check_end()


def is_late(case, response):
    """A request that sets itself a time, a millisecond say, is rightly dropped when that is over before the first token."""
    if response.status_code != 504 or not isinstance(case.body, dict):
        return False
    error = response.json()["error"]
    return error["code"] == "deadline_exceeded" and error["param"] in ("timeout_ms", "ttft_timeout_ms") and case.body.get(error["param"]) is not None


def check(case):
    """Whatever is asked: an answer of the documented shape, and no 5xx but the two that say how things are."""
    response = case.call(timeout=120)
    not_ready = (response.status_code, case.operation.path[:7]) == (503, "/health")
    assert response.status_code < 500 or not_ready or is_late(case, response), response.text
    case.operation.validate_response(response)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_operation(echo, mode):
    number = int(os.environ.get("FG_TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"FG_TEST_SEED={number}")
    schema = schemathesis.openapi.from_url(echo.url + "/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 12
    for operation in operations:
        if mode == GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing can be wrong with it
        test = given(case=operation.as_strategy(generation_mode=mode))(lambda case: check(case))
        seed(number)(settings(max_examples=NUM_EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))(test))()


def test_the_document_names_every_path_and_is_what_runs(echo):
    document = httpx.get(echo.url + "/openapi.json").json()
    assert document["openapi"] == "3.1.0" and document["info"]["version"] == httpx.get(echo.url + "/version").json()["version"]
    for path, item in document["paths"].items():
        for method in item:
            answer = httpx.request(method, echo.url + path.replace("{model}", "tiny-model"), json={} if method == "post" else None)
            assert answer.status_code in ((400,) if method == "post" else (200,)), (path, answer.text)
    # Fields that the schema promises are known to the server: none of them is listed as ignored.
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    answer = httpx.post(echo.url + "/v1/chat/completions", json={**dict.fromkeys(fields), "messages": [{"role": "user", "content": "x"}], "max_tokens": 1})
    assert answer.status_code == 200 and "x-fastgen-ignored-params" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("field", ["timeout_ms", "ttft_timeout_ms"])
def test_a_late_answer_is_in_the_document(echo, path, field):
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "prompt": "x", "max_tokens": 1, field: 1}).encode()

    def slowly():  # the time counts from the request's first byte
        yield body[:10]
        time.sleep(0.1)
        yield body[10:]

    answer = httpx.post(echo.url + path, content=slowly(), headers={"content-type": "application/json"})
    assert answer.status_code == 504 and answer.json()["error"]["param"] == field
    operation = schemathesis.openapi.from_url(echo.url + "/openapi.json")[path]["POST"]
    assert "504" in operation.definition.raw["responses"]
    for code, is_documented in [("deadline_exceeded", True), ("other", False)]:
        error = {**answer.json()["error"], "code": code}
        response = httpx.Response(504, json={"error": error}, request=httpx.Request("POST", answer.url, content=body))
        response.elapsed = answer.elapsed
        with contextlib.nullcontext() if is_documented else pytest.raises(Failure):
            operation.validate_response(response)
