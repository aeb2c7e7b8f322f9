"""The gateway with an embeddings endpoint: as Python decides, and never an outage without it."""

from __future__ import annotations

import http.client
import http.server
import json
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cr2fast
from testing.gateways import needed, running, said
from testing.routers import small
from testing.texts import TEXTS

pytestmark = needed
Vector = Any


class Served:
    """Embeddings and answers of a model, on one port; it does as it is told."""

    def __init__(self, *, down: bool = False) -> None:
        outer = self
        self.embed: Callable[[str], Vector] | None = None
        self.count: Callable[[str], int] | None = None
        self.reply: tuple[int, bytes] | None = None
        self.asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, data = 200, b'{"choices": [{"message": {"content": "hi"}}]}'
                if self.path == "/v1/embeddings":
                    outer.asked.append(body["input"])
                    status, data = outer.reply or (200, outer.said(body["input"]))
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        address = ("127.0.0.1", 0)
        self.server = http.server.ThreadingHTTPServer(address, Handler, bind_and_activate=False)
        self.server.daemon_threads = True
        self.thread: threading.Thread | None = None
        # Down, it refuses connections and keeps its port, which nobody else can then take.
        self.server.server_bind()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        if not down:
            self.start()

    def start(self) -> None:
        self.server.server_activate()
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def said(self, text: str) -> bytes:
        assert self.embed is not None
        vector = [float(x) for x in self.embed(text)]
        told: dict[str, Any] = {"data": [{"index": 0, "embedding": vector}]}
        if self.count is not None:
            told["usage"] = {"prompt_tokens": self.count(text)}
        return json.dumps(told).encode()

    def stop(self) -> None:
        if self.thread is not None:
            self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def minilm() -> cr2fast.Encoder:
    return cr2fast.Encoder.load("minilm")


def fitted(info: cr2fast.EncoderInfo) -> cr2fast.Router:
    """A router without probes."""
    return small(info, 384, alphas=(0.05, 0.5), lams=[0.1, 1.0])


@pytest.fixture(scope="module")
def router(minilm: cr2fast.Encoder) -> cr2fast.Router:
    return fitted(minilm.info).with_probes(minilm)


@pytest.fixture
def served(minilm: cr2fast.Encoder) -> Iterator[Served]:
    made = Served()
    made.embed, made.count = minilm.encode, minilm.count_tokens
    yield made
    made.stop()


def device(
    folder: Path, router: cr2fast.Router, encoder: str, local: str, not_text: str = "edge"
) -> None:
    router.save(folder / "router.safetensors")
    (folder / "device.toml").write_text(
        f'listen = "127.0.0.1:0"\nnot_text = "{not_text}"\n'
        '[router]\npath = "router.safetensors"\nlam = 1.0\nalpha = 0.5\n'
        f'[encoder]\nurl = "{encoder}/v1"\nmodel = "minilm"\ntimeout_ms = 60000\n'
        f'[local]\nurl = "{local}"\n'
        f'[edge]\nurl = "{local}"\ntoken_env = "EDGE_TOKEN"\n'
        "[breaker]\nfailures = 1000\nopen_ms = 1\nmax_open_ms = 1\n"
        '[log]\npath = "decisions.jsonl"\nflush_ms = 5\nembedding = true\n'
    )


def post(
    connection: http.client.HTTPConnection, path: str, body: Any, **headers: str
) -> tuple[int, Any, Any]:
    connection.request("POST", path, json.dumps(body), headers)
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read()), reply.headers


def ask(
    connection: http.client.HTTPConnection,
    text: str,
    path: str = "/v1/route",
    lam: float = 1.0,
    alpha: float = 0.5,
) -> Any:
    model = f"cr2fast:lam={lam},alpha={alpha}" if path == "/v1/route" else "cr2fast"
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    status, told, headers = post(connection, path, body)
    assert status == 200, told
    return told if path == "/v1/route" else headers


def test_it_decides_as_python_does(
    tmp_path: Path, router: cr2fast.Router, minilm: cr2fast.Encoder, served: Served
) -> None:
    device(tmp_path, router, served.url, "http://127.0.0.1:1")
    rng = random.Random(1)
    texts = [t for t in TEXTS if t.strip()] + [
        " ".join(rng.choices(["why", "is", "the", "sky", "blue", "2", "+", "f(x)", "漢", "quantum", "Prove"], k=rng.randrange(1, 40)))
        for _ in range(50)
    ]  # fmt: skip
    texts += ["both ends count " + "x y " * 20_000 + "of a long text?"]
    points = [(lam, alpha) for lam in (0.1, 1.0) for alpha in (0.05, 0.5)]
    by_endpoint = cr2fast.EndpointEncoder(served.url, "minilm", router=router)
    seen = set()
    with running(tmp_path) as (_, connection):
        for i, text in enumerate(texts):
            lam, alpha = points[i % 4]
            one = router.device(lam=lam, alpha=alpha)
            told = ask(connection, text, lam=lam, alpha=alpha)
            expected = one.route_text(text, minilm)
            assert np.float32(told["margin"]).tobytes() == np.float32(expected.margin).tobytes()
            assert told["why"] == ("accepted" if expected.local else "deferred")
            assert one.route_text(text, by_endpoint).margin == expected.margin
            assert told["n_input_tokens_estimated"] == by_endpoint.count_tokens(text)
            if len(text) <= 32_768:
                assert told["n_input_tokens_estimated"] == minilm.count_tokens(text)
            seen.add(expected.local)
    assert seen == {True, False}


def test_a_chat_is_as_long_as_python_counts_and_the_endpoint_is_asked_once(
    tmp_path: Path, router: cr2fast.Router, served: Served
) -> None:
    device(tmp_path, router, served.url, "http://127.0.0.1:1")
    one, selector = router.device(lam=1.0, alpha=0.5), router.edge(1.0)
    state = router.two_stage(1.0, 0.5).typical_state
    first, answer = "Answer in one word, whatever you are asked.", "f(x) = " + "0.25 漢字 " * 300
    parts = ["Why?", "Be brief."]
    long = "both ends " + "x y " * 10_000 + "count"
    chats: list[tuple[list[str], Any]] = [
        ([first], "Is the sky blue?"),
        ([first, "Prove it.", answer], "Go on, please."),
        ([answer], [{"type": "text", "text": part} for part in parts]),
        ([], "alone"),
        ([answer], long),
    ]
    with running(tmp_path) as (_, connection):
        for count in (served.count, None):
            served.count = count
            by_endpoint = cr2fast.EndpointEncoder(served.url, "minilm", router=router)
            for before, last in chats:
                chat = [{"role": "assistant", "content": text} for text in before]
                chat.append({"role": "user", "content": last})
                asked = len(served.asked)
                body = {"model": "cr2fast", "messages": chat}
                status, told, _ = post(connection, "/v1/route", body)
                assert status == 200, told
                chosen = selector.select_text(chat, by_endpoint, state=state)
                assert len(served.asked) == asked + 2, "once by each of the two"
                n = told["n_input_tokens_estimated"]
                own = last if isinstance(last, str) else "\n".join(parts)
                assert n == by_endpoint.count_turns([*before, own], own)
                margin = one.route_text(chat, by_endpoint).margin
                assert np.float32(told["margin"]) == np.float32(margin)
                x = router.inputs(by_endpoint.encode(chat)[None], [own])[0]
                by_number = [selector.select(x, float(m), state).utility for m in (n, 2 * n)]
                assert by_number[0] == chosen.utility != by_number[1]


@pytest.mark.parametrize("rule", ["edge", "device"])
def test_without_an_embedding_requests_go_where_the_rule_says(
    tmp_path: Path, router: cr2fast.Router, served: Served, rule: str
) -> None:
    models = Served()
    device(tmp_path, router, served.url, models.url, rule)
    faults: list[tuple[tuple[int, bytes], str]] = [
        ((500, b"boom"), "status"),
        ((404, b"{}"), "status"),
        ((400, b"too long"), "status"),
        ((200, b""), "garbage"),
        ((200, b"<html>"), "garbage"),
        ((200, b'{"error": {"message": "no"}}'), "garbage"),
        ((200, b'{"data": [{"embedding": [1, 2]}]}'), "garbage"),
        ((200, b'{"data": [{"embedding": "AACAPw=="}]}'), "garbage"),
        ((200, b'{"data": [{"embedding": [' + b"NaN," * 383 + b"0]}]}"), "garbage"),
        ((200, b'{"data": [{"embedding": ["1"]}]}'), "garbage"),
        ((200, b"x" * 2_000_000), "too-large"),
    ]
    try:
        with running(tmp_path) as (_, connection):
            assert ask(connection, "hello")["margin"] is not None
            for reply, _word in faults:
                served.reply = reply
                headers = ask(connection, "hello", "/v1/chat/completions")
                assert headers["x-cr2fast-why"] == "no-embedding"
                assert headers["x-cr2fast-place"] == rule
                assert "x-cr2fast-margin" not in headers
            body = {"model": "cr2fast", "messages": [{"role": "user", "content": "hello"}]}
            limit = {"x-cr2fast-max-latency-ms": "10"}
            status, told, _ = post(connection, "/v1/chat/completions", body, **limit)
            assert (status, told["error"]["code"]) == (503, "no_embedding")
            # A real model's name needs no embedding.
            asked = len(served.asked)
            status, _, headers = post(
                connection, "/v1/chat/completions", {**body, "model": router.models[0]}
            )
            assert (status, headers["x-cr2fast-why"]) == (200, "direct")
            assert len(served.asked) == asked
            served.reply = None
            assert ask(connection, "hello")["margin"] is not None
        # The log is whole once the process has ended.
        lines = [json.loads(x) for x in (tmp_path / "decisions.jsonl").read_text().splitlines()]
        without = [line for line in lines if line["why"] == "no-embedding"]
        assert [line["failed"] for line in without] == [[["encoder", word]] for _, word in faults]
        assert all("embedding" not in line for line in without)
    finally:
        models.stop()


def test_another_encoder_is_refused_with_how_far_it_is(
    tmp_path: Path, router: cr2fast.Router, minilm: cr2fast.Encoder, served: Served
) -> None:
    device(tmp_path, router, served.url, "http://127.0.0.1:1")
    served.embed = lambda text: minilm.encode(f"query: {text}")
    for command in ("device", "check"):
        told = said(command, tmp_path / "device.toml")
        assert told.returncode == 1
        assert "device.toml:8: encoder.url: expected all-MiniLM-L6-v2 int8" in told.stderr
        assert "away from the router's (at most 5e-3, relative)" in told.stderr
        assert "fit and calibrate with this one" in told.stderr
    # The last digits differ between processors, and half precision is near enough.
    served.embed = lambda text: minilm.encode(text).astype(np.float16)
    told = said("check", tmp_path / "device.toml")
    assert told.returncode == 0, told.stderr
    assert "its vectors of 4 probes are within" in told.stdout
    device(
        tmp_path,
        fitted(router.encoder),
        served.url,
        "http://127.0.0.1:1",
    )
    told = said("check", tmp_path / "device.toml")
    assert told.returncode == 1
    assert "router.with_probes(encoder).save(path)" in told.stderr


def ready(connection: http.client.HTTPConnection) -> tuple[int, str]:
    connection.request("GET", "/readyz")
    reply = connection.getresponse()
    return reply.status, reply.read().decode()


def test_it_starts_before_its_endpoint_and_believes_only_the_right_one(
    tmp_path: Path, router: cr2fast.Router, minilm: cr2fast.Encoder
) -> None:
    served, models = Served(down=True), Served()
    device(tmp_path, router, served.url, models.url, "device")
    expected = router.device(lam=1.0, alpha=0.5).route_text("hello", minilm)
    try:
        with running(tmp_path) as (process, connection):
            assert ask(connection, "hello")["why"] == "no-embedding"
            status, words = ready(connection)
            assert status == 200
            assert words.startswith("ready, without embeddings: got no vector of probe 1")
            # Another model came up on the port.
            served.embed = lambda text: -minilm.encode(text)
            served.start()
            assert ask(connection, "hello")["why"] == "no-embedding"
            process.send_signal(signal.SIGHUP)
            assert process.stderr is not None
            line = process.stderr.readline()
            while "reload" not in line:
                line = process.stderr.readline()
            assert "reload refused, the old router stays" in line
            assert "relative" in line
            # The right one.
            served.embed = minilm.encode
            told = ask(connection, "hello")
            while told["why"] == "no-embedding":  # until the pause between two proofs is over
                told = ask(connection, "hello")
            assert np.float32(told["margin"]) == np.float32(expected.margin)
            process.send_signal(signal.SIGHUP)
            while "reloaded" not in line:
                line = process.stderr.readline()
            assert ready(connection)[0] == 200
    finally:
        models.stop()
        served.stop()


def test_the_edge_takes_the_devices_embedding_and_embeds_for_others(
    tmp_path: Path, router: cr2fast.Router, minilm: cr2fast.Encoder, served: Served
) -> None:
    models = Served()
    router.save(tmp_path / "router.safetensors")
    edge_models = "".join(
        f'[[models]]\nname = "{name}"\nurl = "{models.url}"\n' for name in router.models[1:]
    )
    edge = (
        'listen = "127.0.0.1:0"\n%s'
        '[router]\npath = "router.safetensors"\nlam = 1.0\nalpha = 0.5\n'
        f'[encoder]\nurl = "{served.url}"\nmodel = "minilm"\ntimeout_ms = 60000\n{edge_models}'
        '[health]\nevery_ms = 0\n[access]\ndevice_token_env = "EDGE_TOKEN"\n'
    )
    (tmp_path / "edge.toml").write_text(edge % "")
    told = said("check", tmp_path / "edge.toml")
    assert "expected not_text beside it" in told.stderr
    (tmp_path / "edge.toml").write_text(edge % f'not_text = "{router.models[1]}"\n')
    selector = router.edge(1.0)
    text = "Prove that there are infinitely many primes."
    try:
        with running(tmp_path, "edge") as (_, connection):
            told = ask(connection, text)
            chosen = selector.select_text(text, minilm)
            assert told["model"] == chosen.model
            assert np.float32(told["utility"]) == np.float32(chosen.utility)
            where = f"http://{connection.host}:{connection.port}"
            device(tmp_path, router, served.url, models.url)
            config = (tmp_path / "device.toml").read_text()
            config = config.replace(
                f'[edge]\nurl = "{models.url}"', f'[edge]\nurl = "{where}"'
            ).replace("alpha = 0.5", "alpha = 0.05")
            (tmp_path / "device.toml").write_text(config)
            with running(tmp_path) as (_, device_connection):
                one = router.device(lam=1.0, alpha=0.05)
                texts = [f"{text} {i}" for i in range(40)]
                deferred = [t for t in texts if not one.route_text(t, minilm).local]
                assert deferred
                before = len(served.asked)
                headers = ask(device_connection, deferred[0], "/v1/chat/completions")
                assert headers["x-cr2fast-place"] == "edge"
                assert served.asked[before:] == [deferred[0]], "embedded once, on the device"
                served.reply = (500, b"")
                headers = ask(device_connection, deferred[0], "/v1/chat/completions")
                assert headers["x-cr2fast-why"] == "no-embedding"
                assert headers["x-cr2fast-model"] == router.models[1]
    finally:
        models.stop()
