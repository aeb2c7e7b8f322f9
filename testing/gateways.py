"""The built gateway as a process, for tests that hold it against Python."""

from __future__ import annotations

import http.client
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = Path(os.environ.get("CR2FAST_GATEWAY", TARGET / "checked" / "cr2fast-gateway"))
TOKEN = "a-token-of-the-tests"


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
