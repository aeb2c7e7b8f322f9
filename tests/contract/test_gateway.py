"""The contract with the gateway: the built binary decides as Python does, bit for bit."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import random
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

import cr2fast
from testing.gateways import (
    ALPHAS,
    LAMS,
    ROOT,
    D,
    Running,
    fitted,
    needed,
    running,
    said,
    wait,
)
from testing.letters import words

pytestmark = needed


def test_ten_thousand_decisions_are_pythons_bit_for_bit(gateway: Running) -> None:
    rng = random.Random(7)
    devices = {
        (lam, alpha): gateway.router.device(lam=lam, alpha=alpha)
        for lam in LAMS
        for alpha in ALPHAS
    }
    seen = set()
    for i in range(10_000):
        (lam, alpha), text = rng.choice(list(devices)), words(rng)
        body = {
            "model": f"cr2fast:lam={lam},alpha={alpha}",
            "messages": [{"role": "user", "content": text}],
        }
        # Escaped or not, and with the fields in either order, it is the same request.
        fields = list(body.items())[:: rng.choice([1, -1])]
        status, told = gateway.post("/v1/route", json.dumps(dict(fields), ensure_ascii=i % 2 == 0))
        assert status == 200, told
        decision = devices[lam, alpha].route_text(text, gateway.encoder)
        assert told["place"] == ("device" if decision.local else "edge")
        assert told["why"] == ("accepted" if decision.local else "deferred")
        assert np.float32(told["margin"]).tobytes() == np.float32(decision.margin).tobytes()
        threshold = np.float32(float(told["threshold"]))
        assert threshold.tobytes() == np.float32(decision.threshold).tobytes()
        assert told["score"] == decision.score
        assert told["n_input_tokens_estimated"] == gateway.encoder.count_tokens(text)
        seen.add(decision.local)
    assert seen == {True, False}


def test_two_thousand_choices_within_limits_are_pythons(gateway: Running) -> None:
    rng = random.Random(8)
    both = {lam: gateway.router.two_stage(lam=lam, alpha=0.05) for lam in LAMS}
    seen = set()
    choice: cr2fast.Choice | None
    for _ in range(2_000):
        (lam, two), text = rng.choice(list(both.items())), words(rng)
        free = two.route_text(text, gateway.encoder)
        assert free.latency_s is not None
        assert free.energy_j is not None
        limits: dict[str, float] = {}
        if rng.random() < 0.8:
            limits["max_latency_s"] = round(free.latency_s * 10 ** rng.uniform(-1, 1.5), 3)
        if rng.random() < 0.5:
            limits["max_energy_j"] = free.energy_j * 10 ** rng.uniform(-1, 1.5)
        headers = {
            "x-cr2fast-max-latency-ms": str(round(limits["max_latency_s"] * 1000))
            if "max_latency_s" in limits
            else None,
            "x-cr2fast-max-energy-j": repr(limits["max_energy_j"])
            if "max_energy_j" in limits
            else None,
        }
        gateway.connection.request(
            "POST",
            "/v1/route",
            json.dumps(
                {
                    "model": f"cr2fast:lam={lam}",
                    "messages": [{"role": "user", "content": text}],
                }
            ),
            {key: value for key, value in headers.items() if value is not None},
        )
        reply = gateway.connection.getresponse()
        told = json.loads(reply.read())
        try:
            choice = two.route_text(text, gateway.encoder, **limits)  # type: ignore[arg-type]
        except cr2fast.Cr2Error as error:
            nearest = str(error).split("; the nearest is ")[1]
            choice = None
        if choice is None:
            assert reply.status == 422, told
            assert nearest in told["error"]["message"]
            seen.add("unmet")
            continue
        assert reply.status == 200, told
        assert told["expected_model"] == choice.model
        assert told["place"] == choice.place
        assert told["latency_s_estimated"] == choice.latency_s
        assert told["energy_j_estimated"] == choice.energy_j
        seen.add(told["why"])
    assert {"accepted", "deferred", "budget", "unmet"} == seen


class Answering(http.server.BaseHTTPRequestHandler):
    """A model's server of one answer, streamed or not."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        usage = {"prompt_tokens": 5, "completion_tokens": 7}
        chunk = json.dumps({"choices": [{"delta": {"content": "hi"}}], "usage": usage})
        whole = json.dumps({"choices": [{"message": {"content": "hi"}}], "usage": usage})
        streamed = bool(body.get("stream"))
        data = f"data: {chunk}\n\ndata: [DONE]\n\n" if streamed else whole
        self.send_response(200)
        media = "text/event-stream" if streamed else "application/json"
        self.send_header("content-type", media)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data.encode())

    def log_message(self, *args: Any) -> None:
        pass


def lines_of(path: Path, n: int, process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """The lines of a log, once there are `n`."""
    lines: list[str] = []

    def written() -> bool:
        # What follows the last newline is a line on its way.
        lines[:] = path.read_text().split("\n")[:-1] if path.exists() else []
        return len(lines) >= n

    wait(process, written)
    return [json.loads(line) for line in lines]


def test_every_line_of_the_log_is_as_the_docs_say(gateway: Running) -> None:
    schema = json.loads((ROOT / "docs" / "reference" / "decision-log.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    folder = gateway.folder / "logged"
    folder.mkdir()
    config = (gateway.folder / "device.toml").read_text().replace('"router.', '"../router.')
    config = config.replace('"static.', '"../static.')
    config = config.replace("127.0.0.1:1", f"127.0.0.1:{server.server_port}")
    (folder / "device.toml").write_text(config)
    try:
        with running(folder) as (process, connection):
            rng = random.Random(4)
            asked = 0
            for i in range(200):
                model = rng.choice(["cr2fast", "cr2fast:lam=0.1", *gateway.router.models, "none"])
                content: Any = words(rng) if i % 9 else [{"type": "image_url"}]
                messages = [{"role": "user", "content": content}]
                body: dict[str, Any] = {"model": model, "messages": messages}
                if i % 3 == 0:
                    body["stream"] = True
                limit = {"x-cr2fast-max-latency-ms": str(10 ** rng.randrange(7))}
                headers = limit if i % 4 == 0 and model == "cr2fast" else {}
                connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
                connection.getresponse().read()
                asked += 1
            lines = lines_of(folder / "decisions.jsonl", asked, process)
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
    assert len(lines) == asked
    for line in lines:
        errors = [e for whole in validator.iter_errors(line) for e in whole.context or [whole]]
        assert not errors, (line, [e.message for e in errors])
    decided = [line for line in lines if line["margin"] is not None]
    assert {line["why"] for line in lines} >= {"accepted", "deferred", "direct", "not-text", None}
    assert {line["outcome"] for line in lines} == {"answered", "refused"}
    for line in decided:
        assert len(line["embedding"]) == D
        lam, alpha = line["lam"], line["alpha"]
        router = gateway.router.device(lam=lam, alpha=alpha)
        again = router.route(np.array(line["embedding"], np.float32))
        assert np.float32(line["margin"]) == np.float32(again.margin)
    answered = [line for line in decided if line["outcome"] == "answered"]
    assert answered
    local = [line for line in answered if line["place"] == "device"]
    assert all(line["latency_s_estimated"] > 0 for line in local)
    assert all(line["n_output_tokens"] == 7 for line in answered)


def test_a_signal_loads_a_recalibrated_router_or_refuses_it(gateway: Running) -> None:
    body = json.dumps({"model": "cr2fast", "messages": [{"role": "user", "content": "hello"}]})
    before = gateway.post("/v1/route", body)[1]
    path = gateway.folder / "router.safetensors"
    old = path.read_bytes()
    try:
        new = fitted(gateway.encoder, 6)
        new.save(path)
        gateway.process.send_signal(signal.SIGHUP)
        hashed = hashlib.sha256(path.read_bytes()).hexdigest()
        assert hashed in gateway.said()
        after = gateway.post("/v1/route", body)[1]
        assert after["router"] == hashed != before["router"]
        expected = new.device(lam=1.0, alpha=0.05).route_text("hello", gateway.encoder)
        assert np.float32(after["margin"]) == np.float32(expected.margin)
        path.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
        gateway.process.send_signal(signal.SIGHUP)
        assert "reload refused, the old router stays" in gateway.said()
        assert gateway.post("/v1/route", body)[1]["router"] == hashed
    finally:
        path.write_bytes(old)
        gateway.process.send_signal(signal.SIGHUP)
        assert "reloaded" in gateway.said()


def test_check_says_what_a_file_would_do(gateway: Running) -> None:
    good = said("check", gateway.folder / "device.toml")
    assert good.returncode == 0, good.stderr
    assert "accepts for" in good.stdout
    bad = gateway.folder / "bad.toml"
    bad.write_text((gateway.folder / "device.toml").read_text().replace("lam = 1.0", "lam = 2.0"))
    told = said("check", bad)
    assert told.returncode == 1
    assert "bad.toml:5: router: lam=2 is not on the calibrated grid" in told.stderr
