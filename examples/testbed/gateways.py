"""A device and an edge gateway before two servers."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

TOKENS = {"CR2FAST_DEVICE_TOKEN": "a-device-token-of-the-example",
          "CR2FAST_ADMIN_TOKEN": "an-admin-token-of-the-example"}  # fmt: skip


def files(
    folder: Path,
    lam: float,
    alpha: float,
    device: tuple[str, str],
    edge: tuple[str, str],
    port: int,
    name: str,
) -> tuple[Path, Path]:
    """Write device.toml and edge.toml.

    `device` and `edge` are what the models are called by their servers, with the servers' URLs;
    `name` is what the router calls the edge's.
    """
    router = (
        '[router]\npath = "router.safetensors"\nencoder = "static.safetensors"\n'
        f"lam = {lam!r}\nalpha = {alpha!r}\n"
    )
    access = 'admin_token_env = "CR2FAST_ADMIN_TOKEN"\n'
    deadlines = "[deadlines]\nfirst_content_ms = 60000\nanswer_ms = 60000\n"
    (folder / "device.toml").write_text(
        f'listen = "127.0.0.1:0"\n{router}'
        f'[local]\nurl = "{device[1]}"\nmodel = "{device[0]}"\n'
        f'[edge]\nurl = "http://127.0.0.1:{port}"\ntoken_env = "CR2FAST_DEVICE_TOKEN"\n'
        f'[access]\n{access}{deadlines}[log]\npath = "decisions.jsonl"\n'
    )
    (folder / "edge.toml").write_text(
        f'listen = "127.0.0.1:{port}"\n{router}'
        f'[[models]]\nname = "{name}"\nmodel = "{edge[0]}"\nurl = "{edge[1]}"\n'
        f'[access]\n{access}device_token_env = "CR2FAST_DEVICE_TOKEN"\n{deadlines}'
        '[log]\npath = "edge-decisions.jsonl"\n'
    )
    return folder / "device.toml", folder / "edge.toml"


@dataclass
class Gateway:
    """One that runs until it is stopped or killed."""

    process: subprocess.Popen[bytes]
    url: str

    @classmethod
    def start(cls, binary: Path, role: str, file: Path) -> Gateway:
        """Start one, once its file has passed the check."""
        environment = {**os.environ, **TOKENS}
        told = subprocess.run(
            [binary, "check", file], env=environment, capture_output=True, text=True, check=False
        )
        if told.returncode:
            raise SystemExit(told.stderr)
        log = file.with_suffix(".stderr")
        with log.open("wb") as said:
            process = subprocess.Popen([binary, role, file], env=environment, stderr=said)
        for _ in range(3_000):
            text = log.read_text()
            if " on http://" in text:
                return cls(process, "http://" + text.split(" on http://")[1].split(",")[0])
            if process.poll() is not None:
                break
            time.sleep(0.02)
        raise SystemExit(f"the {role} gateway did not start: {log.read_text()}")

    def get(self, path: str) -> str:
        """What a path tells."""
        with urllib.request.urlopen(self.url + path) as answer:
            return str(answer.read().decode())

    def reload(self) -> str:
        """Take the router that lies there now; its hash."""
        token = {"authorization": f"Bearer {TOKENS['CR2FAST_ADMIN_TOKEN']}"}
        call = urllib.request.Request(self.url + "/v1/reload", b"{}", token)
        with urllib.request.urlopen(call) as answer:
            return str(json.loads(answer.read())["router"])

    def kill(self) -> None:
        """At once, in whatever it does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """In good order: requests in flight end, the log is written."""
        self.process.terminate()
        self.process.wait()
