"""The gateway measures by the profiler's meter agent: the real one, over counters that a test moves."""

from __future__ import annotations

import functools
import http.client
import http.server
import json
import re
import threading
from pathlib import Path

import pytest

from cr2fast.traffic import read_log
from testing.gateways import needed, running, wait
from testing.letters import letters
from testing.routers import small

pytest.importorskip("cr2fast_profiler", reason="the profiler is not installed (make installs it)")

from cr2fast_profiler.agent.server import Agent
from cr2fast_profiler.meters.rapl import RaplMeter

pytestmark = needed
AGENT_TOKEN, D = "a-token-of-the-agent", 24


class Model:
    """A server that answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.may = threading.Event(), threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                outer.asked.set()
                outer.may.wait()
                data = b'{"choices": [{"message": {"content": "hi"}}]}'
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def zone(root: Path, folder: str, name: str, uj: int) -> Path:
    at = root / folder
    at.mkdir(parents=True)
    (at / "name").write_text(f"{name}\n")
    (at / "max_energy_range_uj").write_text("262143328850\n")
    (at / "energy_uj").write_text(f"{uj}\n")
    return at / "energy_uj"


def move(counter: Path, by_uj: int) -> None:
    """As the kernel shows it: whole at every moment."""
    new = counter.with_name("new")
    new.write_text(f"{int(counter.read_text()) + by_uj}\n")
    new.replace(counter)


def good_readings(address: tuple[str, int]) -> int:
    connection = http.client.HTTPConnection(*address)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(r'^cr2fast_energy_readings_total\{result="good"\} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


def read(address: tuple[str, int], n: int) -> bool:
    return good_readings(address) == n


def logged(log: Path, n: int) -> bool:
    return log.exists() and log.read_text().count("\n") == n


def device(folder: Path, local: str, agent: str) -> str:
    """A device's file and router; gives the name of its model."""
    encoder = letters(D)
    router = small(encoder.info, D, alphas=(0.05,), lams=[1.0])
    encoder.save(folder / "static.safetensors")
    router.save(folder / "router.safetensors")
    (folder / "device.toml").write_text(
        'listen = "127.0.0.1:0"\n'
        '[router]\npath = "router.safetensors"\nencoder = "static.safetensors"\n'
        "lam = 1.0\nalpha = 0.05\n"
        f'[local]\nurl = "{local}"\n'
        '[edge]\nurl = "http://127.0.0.1:1"\ntoken_env = "EDGE_TOKEN"\n'
        '[log]\npath = "decisions.jsonl"\nflush_ms = 5\n'
        # No reading but those of requests.
        f'[energy]\nagent = "{agent}"\ntoken_env = "AGENT_TOKEN"\n'
        "every_ms = 86400000\ntolerance = 1\n"
    )
    return router.models[0]


def test_joules_of_the_real_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "powercap"
    package = zone(tree, "intel-rapl:0", "package-0", 5_000_000)
    dram = zone(tree, "intel-rapl:0/intel-rapl:0:0", "dram", 1_000_000)
    psys = zone(tree, "intel-rapl:1", "psys", 0)
    model = Model()
    log = tmp_path / "decisions.jsonl"
    monkeypatch.setenv("AGENT_TOKEN", AGENT_TOKEN)
    with Agent("127.0.0.1", 0, AGENT_TOKEN, RaplMeter(tree)) as agent:
        name = device(tmp_path, model.url, agent.url)
        with running(tmp_path) as (process, connection):
            address = connection.host, connection.port
            wait(process, lambda: good_readings(address) == 1)
            # A request that is too short for its readings has no joules: the next one takes longer.
            for attempt in range(10):
                model.asked.clear()
                model.may.clear()
                body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
                connection.request("POST", "/v1/chat/completions", json.dumps(body))
                wait(process, model.asked.is_set)
                before = 2 + 2 * attempt
                wait(process, functools.partial(read, address, before))
                move(package, 4_250_000)
                move(dram, 500_000)
                move(psys, 90_000_000)
                model.may.wait(0.05 * 2**attempt)
                model.may.set()
                reply = connection.getresponse()
                assert reply.status == 200, reply.read()
                reply.read()
                wait(process, functools.partial(logged, log, attempt + 1))
                line = json.loads(log.read_text().splitlines()[-1])
                if line["energy_j_measured"] is not None:
                    break
    model.server.shutdown()
    model.server.server_close()
    assert line["energy_j_measured"] == pytest.approx(4.75, abs=1e-6), line
    frame = read_log(log)
    assert frame["energy_j_measured"].to_list()[-1] == line["energy_j_measured"]
