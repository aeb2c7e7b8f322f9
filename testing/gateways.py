"""The built gateway as a process, for tests that hold it against Python."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import cr2fast
from testing.letters import letters
from testing.routers import small

ROOT = Path(__file__).parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = Path(os.environ.get("CR2FAST_GATEWAY", TARGET / "checked" / "cr2fast-gateway"))
needed = pytest.mark.skipif(
    not BINARY.exists(), reason=f"the gateway is not built (make test builds it): {BINARY}"
)
TOKEN = "a-token-of-the-tests"
LAMS, ALPHAS, D = [0.1, 1.0, 20.0], (0.05, 0.1), 24


@contextmanager
def running(
    folder: Path, role: str = "device"
) -> Iterator[tuple[subprocess.Popen[str], http.client.HTTPConnection]]:
    """The gateway of a folder's ROLE.toml, and a connection to it."""
    process = subprocess.Popen(
        [BINARY, role, folder / f"{role}.toml"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "EDGE_TOKEN": TOKEN},
    )
    assert process.stderr is not None
    connection = None
    try:
        line = process.stderr.readline()
        while "warning" in line or "is not used" in line:
            line = process.stderr.readline()
        assert f"{role} on http://" in line, line
        connection = http.client.HTTPConnection(line.split("http://")[1].split(",")[0])
        yield process, connection
    finally:
        if connection is not None:
            connection.close()
        process.terminate()
        process.wait()
        process.stderr.close()


def wait(process: subprocess.Popen[str], until: Callable[[], bool]) -> None:
    """Wait for what a gateway is about to do, as long as it lives."""
    while True:
        # Asked first: what a process did before its end counts.
        ended = process.poll()
        if until():
            return
        assert ended is None, f"the gateway has ended: {ended}"
        time.sleep(0.005)


def said(command: str, config: Path) -> subprocess.CompletedProcess[str]:
    """What a gateway says that does not begin to serve."""
    env = {**os.environ, "EDGE_TOKEN": TOKEN}
    return subprocess.run(
        [BINARY, command, config], capture_output=True, text=True, env=env, check=False
    )


@dataclass
class Running:
    """A device's gateway, and what it decides by."""

    folder: Path
    router: cr2fast.Router
    encoder: cr2fast.StaticEncoder
    process: subprocess.Popen[str]
    connection: http.client.HTTPConnection

    def post(self, path: str, body: str) -> tuple[int, dict[str, Any]]:
        self.connection.request("POST", path, body.encode("utf-8", "surrogatepass"))
        reply = self.connection.getresponse()
        return reply.status, json.loads(reply.read())

    def said(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline()


def fitted(encoder: cr2fast.StaticEncoder, seed: int) -> cr2fast.Router:
    """The router of a :class:`Running`, or with another seed another."""
    return small(encoder.info, D, alphas=ALPHAS, lams=LAMS, seed=seed)


@contextmanager
def deciding(folder: Path) -> Iterator[Running]:
    """A device's gateway that decides by letters; its models are nowhere."""
    encoder = letters(D)
    router = fitted(encoder, 5)
    encoder.save(folder / "static.safetensors")
    router.save(folder / "router.safetensors")
    (folder / "device.toml").write_text(
        'listen = "127.0.0.1:0"\n'
        '[router]\npath = "router.safetensors"\nencoder = "static.safetensors"\n'
        "lam = 1.0\nalpha = 0.05\n"
        '[local]\nurl = "http://127.0.0.1:1"\n'
        '[edge]\nurl = "http://127.0.0.1:1"\ntoken_env = "EDGE_TOKEN"\n'
        '[log]\npath = "decisions.jsonl"\nflush_ms = 5\nembedding = true\n'
    )
    with running(folder) as (process, connection):
        yield Running(folder, router, encoder, process, connection)
