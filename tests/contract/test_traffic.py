"""The contract between the gateway's log and `cr2fast.traffic`: what two real gateways decided and
logged is what Python reads, labels and replays."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from dataclasses import replace

import numpy as np
import pytest

import cr2fast
from cr2fast.datasets import make_routing_problem
from cr2fast.encoders.info import sha256_of
from cr2fast.traffic import open_log, recalibrate, replay
from testing.gateways import BINARY, needed
from testing.letters import LETTERS, letters
from testing.openai_stub import Stub

LAM, ALPHA, D, N = 0.1, 0.1, 24, 120

pytestmark = needed


def started(role, path):
    process = subprocess.Popen(
        [BINARY, role, path], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "DEVICE_TOKEN": "a-token-of-the-tests"},
    )  # fmt: skip
    assert process.stderr is not None
    line = process.stderr.readline()
    assert f"{role} on http://" in line, line
    return process, line.split("http://")[1].split(",")[0].strip()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Router, encoder, and the logs of N requests through a device's and an edge's gateway."""
    folder = tmp_path_factory.mktemp("traffic")
    encoder = letters(D)
    problem = make_routing_problem(n=400, d=D, models=3, seed=5)
    train, calibration, _ = replace(problem.table, encoder=encoder.info).split()
    router = cr2fast.fit(
        train, problem.costs, lam_range=(0.1, 20.0),
        hidden=16, teacher_epochs=2, gate_epochs=2, progress=False,
    )  # fmt: skip
    router.calibrate(calibration, alphas=(0.05, ALPHA), lams=[LAM, 1.0])
    encoder.save(folder / "static.safetensors")
    router.save(folder / "router.safetensors")
    common = (
        'listen = "127.0.0.1:0"\n'
        '[router]\npath = "router.safetensors"\nencoder = "static.safetensors"\n'
        f"lam = {LAM}\nalpha = {ALPHA}\n"
    )
    here, there = Stub("from the device"), Stub("from the edge")
    models = "".join(
        f'[[models]]\nname = "{m}"\nurl = "{there.url.removesuffix("/v1")}"\n'
        for m in router.models[1:]
    )
    log = '[log]\npath = "{}.jsonl"\nembedding = true\nflush_ms = 50\n'
    (folder / "edge.toml").write_text(
        common
        + models
        + '[access]\ndevice_token_env = "DEVICE_TOKEN"\n'
        + log.format("edge")
        # The stubs answer no questions after their health, and would soon be passed over.
        + "[health]\nevery_ms = 0\n"
    )
    edge, at_edge = started("edge", folder / "edge.toml")
    (folder / "device.toml").write_text(
        common
        + f'[local]\nurl = "{here.url.removesuffix("/v1")}"\n'
        + f'[edge]\nurl = "http://{at_edge}"\ntoken_env = "DEVICE_TOKEN"\n'
        + log.format("device")
    )
    device, at_device = started("device", folder / "device.toml")
    rng = np.random.default_rng(1)
    connection = http.client.HTTPConnection(at_device)
    told = []
    for i in range(N):
        text = " ".join(rng.choice(list(LETTERS), size=6))
        body = {"model": "cr2fast", "messages": [{"role": "user", "content": text}]}
        headers = {"x-cr2fast-max-latency-ms": "1e7"} if i % 10 == 0 else {}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        reply = connection.getresponse()
        reply.read()
        assert reply.status == 200
        told.append((text, {k.lower(): v for k, v in reply.getheaders()}))
    connection.request(
        "POST", "/v1/outcomes",
        json.dumps({"id": told[0][1]["x-cr2fast-request-id"], "score": 0.5}),
    )  # fmt: skip
    graded = connection.getresponse()
    graded.read()
    connection.close()
    for process in (device, edge):  # What waits is written as a gateway stops.
        process.terminate()
        process.wait()
        process.stderr.close()
    here.close()
    there.close()
    return folder, router, encoder, told, graded.status


def test_what_was_logged_is_what_was_answered(served):
    folder, _, encoder, told, graded = served
    log = open_log([folder / "device.jsonl", folder / "edge.jsonl"])
    assert (len(log), log.found.unread) == (N, 0), log
    assert log.found.unknown_fields == {}
    deferred = sum(h["x-cr2fast-place"] == "edge" for _, h in told)
    assert 0 < deferred < N
    assert log.found.merged == deferred
    assert log.found.routers == {sha256_of(folder / "router.safetensors"): N}
    rows = {row["id"]: row for row in log.frame.iter_rows(named=True)}
    for text, headers in told:
        row = rows[headers["x-cr2fast-request-id"]]
        for name in ("place", "model", "why"):
            assert row[name] == headers[f"x-cr2fast-{name}"]
        assert np.float32(row["margin"]) == np.float32(headers["x-cr2fast-margin"])
        assert np.float32(row["embedding"]).tobytes() == encoder.encode(text).tobytes()
        assert row["n_input_tokens_estimated"] == encoder.count_tokens(text)
        assert row["outcome"] == "answered"
    if graded < 300:  # A gateway that takes outcomes.
        assert rows[told[0][1]["x-cr2fast-request-id"]]["score"] == 0.5


def test_the_logged_point_replayed_is_what_the_gateways_did(served):
    folder, router, _, told, _ = served
    again = replay([folder / "device.jsonl", folder / "edge.jsonl"], router, LAM, ALPHA)
    assert again.would.n == again.logged.n == N
    assert again.changed == 0
    assert again.would.share == again.logged.share
    local = sum(h["x-cr2fast-place"] == "device" for _, h in told)
    assert again.would.local_rate == local / N


def test_the_devices_log_recalibrates(served):
    folder, router, _, _, _ = served
    done = recalibrate(folder / "device.jsonl", router)
    assert done.report.n == 96
    assert done.held[0].n == 24
