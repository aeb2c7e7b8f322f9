"""What a run of the gateway's bars stands on: binaries, a router, servers that end with the run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import cr2fast
from cr2fast.datasets import make_routing_problem

ROOT = Path(__file__).parents[2]
D, WORDS, VOCABULARY = 384, 60, 3_000
"""An embedding as wide as MiniLM's, and prompts of some length: what deployments have."""
LAM, ALPHA = 1.0, 0.1
DEVICE_TOKEN, ADMIN_TOKEN = "device-token-of-the-bench", "admin-token-of-the-bench"
ANSWER = "the answer of the stub"
NAME = "cr2fast-gateway"
PATIENCE_S = 600.0
"""Of one wait for clients: none of the bars' takes half of it on a busy machine."""
ENV = {**os.environ, "DEVICE_TOKEN": DEVICE_TOKEN, "ADMIN_TOKEN": ADMIN_TOKEN}


def build(profile: str) -> tuple[Path, Path]:
    """The gateway and the bench's own program, built; their paths.

    One after the other: built together, the gateway would have the features that tests switch on in
    its libraries, and a clock that can be paused is slower.
    """
    return _built(profile, ("--bin", NAME)), _built(profile, ("--bench", "load"))


def _built(profile: str, target: tuple[str, str]) -> Path:
    command = ["cargo", "build", "--profile", profile, "-p", NAME, *target]
    command += ["--message-format", "json"]
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in told.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == target[1]:
            return Path(message["executable"])
    raise SystemExit(f"cargo built no {target[1]}")


def _words() -> list[str]:
    rng = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return sorted({"".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(VOCABULARY)})


def _router(encoder: cr2fast.StaticEncoder, seed: int) -> cr2fast.Router:
    problem = make_routing_problem(n=600, d=D, models=3, seed=seed)
    table = replace(problem.table, encoder=encoder.info)
    train, calibration, _ = table.split()
    router = cr2fast.fit(
        train,
        problem.costs,
        lam_range=(0.1, 20.0),
        teacher_epochs=2,
        gate_epochs=2,
        seed=seed,
        progress=False,
    )
    router.calibrate(calibration, alphas=(0.05, ALPHA), lams=[0.1, LAM, 20.0])
    return router


@dataclass
class World:
    """A folder with two routers, their encoder, and an accepted and a deferred text."""

    folder: Path
    gateway: Path
    load: Path
    accepted: str = ""
    deferred: str = ""
    running: ExitStack = field(default_factory=ExitStack)

    def prepare(self) -> None:
        """Fit both routers and find the texts."""
        words = _words()
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
        encoder = cr2fast.StaticEncoder.from_vectors(
            np.random.default_rng(0).normal(size=(len(tokens), D)).astype(np.float32),
            tokens, id="bench", source=("none", "0" * 64), max_tokens=256,
            truncation="head-tail", record="{}",
        )  # fmt: skip
        encoder.save(self.folder / "static.safetensors")
        routers = [_router(encoder, seed) for seed in (0, 1)]
        for k, router in enumerate(routers):
            router.save(self.folder / f"router{k}.safetensors")
        routers[0].save(self.folder / "router.safetensors")
        rng = random.Random(2)
        devices = [router.device(lam=LAM, alpha=ALPHA) for router in routers]
        for _ in range(20_000):
            text = " ".join(rng.choices(words, k=WORDS))
            local = {device.route_text(text, encoder).local for device in devices}
            if local == {True}:
                self.accepted = self.accepted or text
            if local == {False}:
                self.deferred = self.deferred or text
            if self.accepted and self.deferred:
                return
        raise SystemExit("both routers accept, or defer, every text that was tried")

    def body(self, text: str, *, stream: bool = False, model: str = "cr2fast") -> Path:
        """A file with a request's body."""
        message: dict[str, Any] = {"model": model, "stream": stream}
        message["messages"] = [{"role": "user", "content": text}]
        path = self.folder / f"body-{abs(hash((text, stream, model))):x}.json"
        path.write_text(json.dumps(message, separators=(",", ":")))
        return path

    def device(self, local: str, edge: str = "127.0.0.1:1", more: str = "") -> Path:
        """A device's file."""
        return self._file(
            "device",
            f'[local]\nurl = "http://{local}"\nmodel = "stub"\n'
            f'[edge]\nurl = "http://{edge}"\ntoken_env = "DEVICE_TOKEN"\n{more}',
        )

    def edge(self, upstream: str, more: str = "", listen: str = "127.0.0.1:0") -> Path:
        """An edge's file."""
        names = cr2fast.Router.load(self.folder / "router.safetensors").models[1:]
        models = "".join(f'[[models]]\nname = "{n}"\nurl = "http://{upstream}"\n' for n in names)
        access = '[access]\ndevice_token_env = "DEVICE_TOKEN"\nadmin_token_env = "ADMIN_TOKEN"\n'
        return self._file("edge", models + ("" if "[access]" in more else access) + more, listen)

    def _file(self, role: str, rest: str, listen: str = "127.0.0.1:0") -> Path:
        path = self.folder / f"{role}-{len(list(self.folder.glob('*.toml')))}.toml"
        path.write_text(
            f'listen = "{listen}"\n[router]\npath = "router.safetensors"\n'
            f'encoder = "static.safetensors"\nlam = {LAM}\nalpha = {ALPHA}\n{rest}'
        )
        return path

    def start(self, role: str, file: Path, prefix: Sequence[str] = ()) -> Running:
        """A gateway."""
        errors = file.with_suffix(".log").open("w+")
        process = subprocess.Popen(
            [*prefix, self.gateway, role, file], stderr=errors, env=ENV, text=True
        )
        log = file.with_suffix(".log")
        for _ in range(500):
            said = log.read_text()
            if " on http://" in said:
                address = said.split(" on http://")[1].split(",")[0]
                return self._keep(Running(process, address, log))
            if process.poll() is not None:
                break
            time.sleep(0.02)
        raise SystemExit(f"the gateway did not start: {log.read_text()}")

    def helper(self, *arguments: str, prefix: Sequence[str] = ()) -> Running:
        """The stub, or the bare proxy."""
        process = subprocess.Popen(
            [*prefix, self.load, *arguments], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        return self._keep(Running(process, process.stdout.readline().strip(), Path()))

    def ask(self, address: str, body: Path, prefix: Sequence[str] = (), **settings: Any) -> Asking:
        """Clients that ask until they are done."""
        settings.setdefault("expect", ANSWER)
        pairs = [f"{key}={value}" for key, value in settings.items()]
        command = [*prefix, self.load, "ask", address, f"body={body}", *pairs]
        return Asking(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

    def hostile(self, address: str, n: int, rate: float) -> Asking:
        """Clients that mean no good."""
        command = [self.load, "hostile", address, str(n), str(rate)]
        return Asking(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

    def _keep(self, running: Running) -> Running:
        self.running.callback(running.stop)
        return running


@dataclass
class Running:
    """A server."""

    process: subprocess.Popen[str]
    address: str
    log: Path

    def resident(self) -> int:
        """Bytes of memory that it holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def stop(self) -> None:
        """End it, whatever state it is in."""
        self.process.kill()
        self.process.wait()


@dataclass
class Asking:
    """Clients at work."""

    process: subprocess.Popen[str]

    def wait(self) -> dict[str, Any]:
        """What they tell when they are done."""
        try:
            told, _ = self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise SystemExit(f"the clients did not end within {PATIENCE_S:.0f} s") from None
        if self.process.returncode:
            raise SystemExit("the clients failed")
        found: dict[str, Any] = json.loads(told)
        return found


def all_good(told: dict[str, Any]) -> dict[str, Any]:
    """The same, once every answer was right: a time of wrong answers is none."""
    if set(told["statuses"]) != {"200"} or told["wrong"]:
        raise SystemExit(f"not every answer was right: {told['statuses']}, {told['wrong']} wrong")
    return told
