"""examples/service.py: what it answers, and what it refuses in the words of the request."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cr2fast
from cr2fast.datasets import make_routing_problem

EXAMPLES = Path(__file__).parents[2] / "examples"
LAM, ALPHA = 1.0, 0.05
WHO = "Who wrote Hamlet?"


@pytest.fixture(scope="module")
def encoder():
    return cr2fast.Encoder.load("minilm")


@pytest.fixture(scope="module")
def path(encoder, tmp_path_factory):
    problem = make_routing_problem(n=900, d=384, seed=4)
    train, calibration, _ = replace(problem.table, encoder=encoder.info).split(seed=0)
    router = cr2fast.fit(
        train,
        problem.costs,
        lam_range=(0.1, 20.0),
        hidden=16,
        teacher_epochs=1,
        gate_epochs=1,
        progress=False,
    )
    router.calibrate(calibration, lams=[LAM], alphas=(ALPHA,))
    out = tmp_path_factory.mktemp("service") / "router.safetensors"
    router.save(out)
    return out


@pytest.fixture(scope="module")
def service(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROUTER", str(path))
        patch.setenv("LAM", str(LAM))
        patch.setenv("ALPHA", str(ALPHA))
        spec = importlib.util.spec_from_file_location("service", EXAMPLES / "service.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_it_starts_from_a_chosen_point(path, tmp_path):
    """POINT names what cr2fast choose --write wrote; a point of another router is refused."""
    router = cr2fast.Router.load(path)
    problem = make_routing_problem(n=900, d=384, seed=4)
    table = replace(problem.table, encoder=router.encoder).split(seed=0)[2]
    point = cr2fast.evaluate(router, table).choose(max_latency_s=1e6)
    point.write(chosen := tmp_path / "point.json")
    assert cr2fast.OperatingPoint.read(chosen) == point
    assert all(type(v) is float for e in point.expected for v in e[1:])

    def load():
        spec = importlib.util.spec_from_file_location("service_at", EXAMPLES / "service.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROUTER", str(path))
        patch.setenv("POINT", str(chosen))
        patch.setenv("LAM", "17")
        at = load()
        assert (at.two_stage.lam, at.two_stage.alpha) == (point.lam, point.alpha)
        data = json.loads(chosen.read_text())
        chosen.write_text(json.dumps(data | {"router": "0" * 64}))
        with pytest.raises(cr2fast.Cr2Error, match="point: expected the router it was chosen for"):
            load()


@pytest.fixture
def post(service):
    """Send a body in pieces; get status, answer, and how many pieces were read."""

    def send(*pieces, length=None):
        headers = [(b"content-type", b"application/json")]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        scope = {"type": "http", "method": "POST", "path": "/route", "raw_path": b"/route"}
        scope |= {"query_string": b"", "headers": headers, "http_version": "1.1", "root_path": ""}
        scope |= {"scheme": "http", "server": ("x", 80), "client": ("x", 1)}
        read, sent = 0, []

        async def receive():
            nonlocal read
            if read == len(pieces):
                return {"type": "http.disconnect"}
            read += 1
            more = read < len(pieces)
            return {"type": "http.request", "body": pieces[read - 1], "more_body": more}

        async def answer(message):
            sent.append(message)

        asyncio.run(service.app(scope, receive, answer))
        body = b"".join(m.get("body", b"") for m in sent)
        return sent[0]["status"], json.loads(body), read

    return send


@pytest.fixture
def ask(post):
    return lambda body: post(json.dumps(body).encode())[:2]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": WHO},
        {"prompt": WHO, "messages": None},
        {"prompt": None, "messages": [{"role": "user", "content": WHO}]},
        {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": WHO}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": WHO}]}]},
        {"prompt": WHO, "model": "any", "temperature": 0},
    ],
)
def test_a_prompt_or_messages_are_routed(ask, path, encoder, body):
    status, got = ask(body)
    expected = cr2fast.DeviceRouter.load(path, LAM, ALPHA).route_text(WHO, encoder)
    assert status == 200
    assert (got["local"], got["margin"]) == (expected.local, expected.margin)
    finite = np.isfinite(expected.threshold)
    assert got["threshold"] == (expected.threshold if finite else str(expected.threshold))
    named = cr2fast.TwoStage.load(path, LAM, ALPHA).route_text(
        body.get("prompt") or body["messages"], encoder
    )
    assert (got["model"], got["place"], got["cost"]) == (named.model, named.place, named.cost)
    assert got["n_input_tokens"] == encoder.count_tokens(WHO)
    assert got["usd"] is None


def test_a_limit_moves_a_prompt_or_names_the_nearest_model(ask, path, encoder):
    two = cr2fast.TwoStage.load(path, LAM, ALPHA)
    free = two.route_text(WHO, encoder)
    status, got = ask({"prompt": WHO, "max_latency_s": 1e6, "max_usd": None})
    assert (status, got["model"]) == (200, free.model)
    status, got = ask({"prompt": WHO, "max_latency_s": 0})
    assert status == 422
    assert "budget: expected limits that some model meets, got max_latency_s=0" in got["detail"]
    assert "the nearest is" in got["detail"]


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, 'body: expected one of "prompt" and "messages", got none'),
        ({"text": "x"}, "text: no field has this name"),
        ({"prompt": "x", "max_latncy_s": 1}, "max_latncy_s: no field has this name; the nearest is max_latency_s"),
        ({"prompt": "\u200b\u2060\ufeff"}, "prompt: expected some text, got none"),
        ({"prompt": "\u3164 \u00ad"}, "prompt: expected some text, got none"),
        ({"prompt": None, "messages": None}, "got none"),
        ({"prompt": "x", "messages": [USER]}, "got prompt and messages"),
        ("x", 'body: expected an object with "prompt" or "messages", got a string'),
        (None, "got nothing"),
        (3, "got a number"),
        (float("nan"), "got a number"),
        ([USER], "got a list"),
        ({"prompt": ""}, "prompt: expected some text, got none"),
        ({"prompt": " \n\t\u3000"}, "prompt: expected some text, got none"),
        ({"prompt": 3}, "prompt: expected a string, got a number"),
        ({"prompt": True}, "prompt: expected a string, got true or false"),
        ({"prompt": float("nan")}, "prompt: expected a string, got a number"),
        ({"prompt": [USER]}, "prompt: expected a string, got a list"),
        ({"prompt": {}}, "prompt: expected a string, got an object"),
        ({"prompt": "\ud800"}, "prompt: expected text that UTF-8 can hold"),
        ({"messages": "hi"}, "messages: expected a list of chat messages, got a string"),
        ({"messages": USER}, "messages: expected a list of chat messages, got an object"),
        ({"messages": []}, "messages: expected a message with role 'user', got an empty list"),
        ({"messages": ["hi"]}, "messages: expected objects in the list, got a string"),
        ({"messages": [USER, 3]}, "messages: expected objects in the list, got a number"),
        ({"messages": [[USER]]}, "messages: expected objects in the list, got a list"),
        ({"messages": [float("inf")]}, "messages: expected objects in the list, got a number"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages: expected a message with role"),
        ({"messages": [{"role": "\ud800"}] * 9000}, "messages: expected a message with role"),
        ({"messages": [{"role": "user"}]}, "messages: expected text in the last user turn"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages: expected some text, got none"),
        ({"messages": [{"role": "user", "content": "\udfff"}]}, "messages: expected text that UTF-8"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages: expected text"),
        ({"messages": [{"role": "system", "content": "\udfff"}, USER]}, "expected text that UTF-8"),
        ({"prompt": "x", "max_usd": 1}, "max_usd: expected it with a cost table that has prices"),
        ({"prompt": "x", "max_latency_s": "1"}, "max_latency_s: expected a number, got a string"),
        ({"prompt": "x", "max_latency_s": True}, "max_latency_s: expected a number, got true or false"),
        ({"prompt": "x", "max_latency_s": -1}, "max_latency_s: expected a number, at least 0, got a negative one"),
        ({"prompt": "x", "max_energy_j": float("nan")}, "max_energy_j: expected a number, at least 0, got"),
        ({"prompt": "x", "max_energy_j": float("inf")}, "max_energy_j: expected a number, at least 0, got"),
        ({"prompt": "x", "max_energy_j": 10**400}, "max_energy_j: expected a number, at least 0"),
    ],
)  # fmt: skip
def test_what_is_no_prompt_is_refused_in_its_own_words(ask, body, words):
    status, got = ask(body)
    assert status == 422
    assert words in got["detail"]
    assert len(got["detail"]) < 900


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"not JSON", b'{"prompt": "a", "prompt": "b"}', b"\xff\xfe\x00", b"{\"prompt\": \"a", b"[" * 100_000,
     b'{"a":' * 100_000, b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", b"9" * 5000 + b"x"],
)  # fmt: skip
def test_what_is_no_json_is_a_bad_request(post, raw):
    status, got, _ = post(raw)
    assert status == 400
    assert got["detail"].startswith("body: expected JSON, got")
    assert len(got["detail"]) < 600


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(post, service):
    most = service.MAX_BODY
    for length in (most + 1, 50_000_000, "9" * 5000, "-1", "x"):
        status, got, read = post(b"x", length=length)
        assert (status, read) == (413, 0)
    assert got["detail"] == f"body: expected at most {most} bytes, got more"
    # Sent in pieces without a length, or with a false one, no more is read than shows it.
    piece = b" " * (most // 4)
    for length in (None, 10):
        status, _, read = post(*[piece] * 200, length=length)
        assert (status, read) == (413, 5)
    whole = json.dumps({"prompt": WHO}).encode()
    whole += b" " * (most - len(whole))
    assert (
        post(whole, length=most)[0]
        == post(*[whole[i : i + 999] for i in range(0, most, 999)])[0]
        == 200
    )


def test_over_http(path, encoder):
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", "0"]
    env = os.environ | {"ROUTER": str(path), "LAM": str(LAM), "ALPHA": str(ALPHA)}
    server = subprocess.Popen(command, cwd=EXAMPLES, env=env, stderr=subprocess.PIPE, text=True)

    def post(raw):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/route", raw, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    try:
        said = []
        while not any("Uvicorn running" in line for line in said):
            said.append(server.stderr.readline())
            assert said[-1], "".join(said)
        port = int(re.search(r"http://127.0.0.1:(\d+)", said[-1])[1])
        got = post(json.dumps({"prompt": WHO}).encode())
        expected = cr2fast.DeviceRouter.load(path, LAM, ALPHA).route_text(WHO, encoder)
        assert (got["local"], got["margin"]) == (expected.local, expected.margin)
        for raw, status in ((b"[" * 100_000, 400), (b'{"messages": "hi"}', 422)):
            with pytest.raises(urllib.error.HTTPError) as error:
                post(raw)
            assert error.value.code == status
            error.value.close()
        # Sizes declared, or in chunks: the answer comes before the body went.
        for start in (
            b"Content-Length: 50000000\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n" + b"20000\r\n" + b" " * 0x20000 + b"\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(b"POST /route HTTP/1.1\r\nHost: x\r\n" + start)
                if b"chunked" in start:
                    for _ in range(8):
                        connection.sendall(b"20000\r\n" + b" " * 0x20000 + b"\r\n")
                assert b" 413 " in connection.recv(64)
        assert post(json.dumps({"prompt": WHO}).encode()) == got
    finally:
        server.terminate()
        server.communicate(timeout=30)
