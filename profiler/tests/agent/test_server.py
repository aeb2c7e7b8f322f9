"""The agent: what it answers, what it refuses, and what hostile clients get."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import zlib
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from fakes.clock import VirtualClock
from fakes.network import Shape

from cr2fast_profiler.agent.client import AgentClient, RequestError
from cr2fast_profiler.agent.server import Agent, serve_agent
from cr2fast_profiler.agent.wire import check_token, read_token
from cr2fast_profiler.clock import SYSTEM
from cr2fast_profiler.errors import AgentError
from cr2fast_profiler.meters.base import Domain, Fault, Reason, Unavailable

TOKEN = "a-token-of-enough-characters"
SHAPE = Shape(1e9, 0.0)
NONE = Unavailable("rapl", Reason.PERMISSION, "energy_uj is readable by root only", "run as root")


class StepMeter:
    """Two domains that gain a joule a reading."""

    domains = (Domain("package-0", "cpu", "rapl"), Domain("psys", "psys", "rapl", in_total=False))
    poll_s = 30.0

    def __init__(self):
        self.faults = []
        self.clock = SYSTEM
        self.joules = np.zeros(2)
        self.reads = 0

    def read(self):
        self.reads += 1
        self.joules = self.joules + 1
        return self.clock(), self.joules

    def close(self):
        pass


@pytest.fixture(scope="module")
def agent():
    with Agent("127.0.0.1", 0, TOKEN, NONE) as running:
        yield running


@pytest.fixture
def client(agent):
    c = AgentClient(agent.url, TOKEN)
    yield c
    c.close()


def raw(agent, message):
    """Send bytes as they are, return all that comes back."""
    data = b""
    with socket.create_connection(("127.0.0.1", agent.port)) as s:
        # Who refuses before the end of a message hangs up on what comes after it.
        with suppress(OSError):
            s.sendall(message)
            s.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while chunk := s.recv(65_536):
                data += chunk
    return data


def call(method, path, *headers, body=b""):
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def test_health_ping_sink_and_source_on_one_connection(client):
    health = client.request("GET", "/health").json()
    assert health["schema"] == "cr2fast.agent/1"
    assert len(health["host_id"]) == 16
    kept = client._socket
    ping = client.request("GET", "/ping")
    assert ping.received_bytes < 120
    assert ping.start_ns < ping.first_ns <= ping.end_ns
    assert client.request("POST", "/sink", b"").json() == {"bytes": 0}
    assert client.request("POST", "/sink", os.urandom(3_000_000)).json() == {"bytes": 3_000_000}
    for size in (0, 1, 70_000, (1 << 20) + 7, 5_000_000):
        assert client.request("GET", f"/source?bytes={size}", keep=False).body_bytes == size
    assert client._socket is kept


def test_source_does_not_compress(client):
    body = client.request("GET", "/source?bytes=500000").body
    assert len(zlib.compress(body)) > 499_000
    assert client.request("GET", "/source?bytes=500000").body != body


def test_no_meter_is_a_typed_reason(client):
    answer = client.request("GET", "/energy").json()
    assert answer["unavailable"] == {
        "source": "rapl",
        "reason": "permission",
        "detail": "energy_uj is readable by root only",
        "remedy": "run as root",
    }
    assert "joules" not in answer


def test_energy_of_a_meter():
    meter = StepMeter()
    clock = VirtualClock()
    now = clock()
    meter.clock = clock
    meter.faults = [Fault(now - 10**9, "psys", Reason.RESET, f"fault {i}") for i in range(300)]
    meter.joules = np.array([5.0, np.nan])
    with Agent("127.0.0.1", 0, None, meter, clock) as running, AgentClient(running.url) as client:
        answer = client.request("GET", "/energy").json()
    assert answer["joules"] == [6.0, None]
    assert [d["name"] for d in answer["domains"]] == ["package-0", "psys"]
    assert answer["domains"][1]["in_total"] is False
    assert answer["fault_count"] == 300
    assert [f["detail"] for f in answer["faults"]][::255] == ["fault 44", "fault 299"]
    assert answer["faults"][0]["age_s"] == 1.0


def test_a_meter_is_polled_when_nobody_asks():
    meter = StepMeter()
    clock = VirtualClock()
    with Agent("127.0.0.1", 0, None, meter, clock):
        clock.sleep(3.5 * meter.poll_s)
    assert meter.reads == 3


def test_a_meter_that_raises_is_no_traceback_to_the_client(capfd):
    def fail():
        raise RuntimeError("secret insides")

    meter = SimpleNamespace(domains=StepMeter.domains, poll_s=30.0, faults=[], read=fail)
    with Agent("127.0.0.1", 0, None, meter) as running:
        answer = raw(running, call("GET", "/energy"))
        assert raw(running, call("GET", "/ping", "Connection: close")).endswith(b"{}")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in answer
    assert b"Traceback" not in answer
    assert "RuntimeError: secret insides" in capfd.readouterr().err


@pytest.mark.parametrize("route", ["/health", "/energy", "/ping", "/source?bytes=1", "/nowhere"])
@pytest.mark.parametrize("sent", [None, "", "Bearer", "Bearer x", TOKEN, f"bearer {TOKEN}", "é"])
def test_every_route_wants_the_token(agent, route, sent):
    line = "" if sent is None else f"Authorization: {sent}\r\n"
    answer = raw(agent, f"GET {route} HTTP/1.1\r\n{line}\r\n".encode("latin-1"))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert TOKEN.encode() not in answer


def test_a_sink_without_the_token_reads_nothing(agent):
    with pytest.raises(RequestError, match="401"):
        AgentClient(agent.url, "x" * 20).request("POST", "/sink", b"1")


HOSTILE = [
    (b"\r\n\r\n", b""),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b""),
    (b"GET /ping HTTP/9.9\r\n\r\n", b"HTTP/1.1 505"),
    (b"GET\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET /ping SMTP/1.0\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 431"),
    (b"GET /ping HTTP/1.1\r\nA: " + b"b" * 20_000 + b"\r\n\r\n", b"HTTP/1.1 431"),
    (b"GET /ping HTTP/1.1\r\n" + b"A: b\r\n" * 3_000 + b"\r\n", b"HTTP/1.1 431"),
    (b"GET /ping HTTP/1.1\r\n" + b"A: b\r\n" * 120 + b"\r\n", b"HTTP/1.1 431"),
    (call("POST", "/sink", "Content-Length: -1"), b"HTTP/1.1 400"),
    (call("POST", "/sink", "Content-Length: 1e3"), b"HTTP/1.1 400"),
    (call("POST", "/sink", "Content-Length: \u0663".encode().decode("latin-1")), b"HTTP/1.1 400"),
    (call("POST", "/sink", "Content-Length: 1", "Content-Length: 2"), b"HTTP/1.1 400"),
    (call("POST", "/sink", "Transfer-Encoding: chunked"), b"HTTP/1.1 400"),
    (call("POST", "/sink", "Content-Length: 67108865"), b"HTTP/1.1 413"),
    (call("POST", "/sink", "Content-Length: " + "9" * 400), b"HTTP/1.1 413"),
    (call("POST", "/sink", "Content-Length: 10", body=b"short"), b""),
    (call("GET", "/ping", "Content-Length: 2", body=b"{}"), b"HTTP/1.1 413"),
    (call("GET", "/source"), b"HTTP/1.1 400"),
    (call("GET", "/source?bytes=-1"), b"HTTP/1.1 400"),
    (call("GET", "/source?bytes=1&bytes=2"), b"HTTP/1.1 400"),
    (call("GET", "/source?" + "a&" * 100 + "bytes=1"), b"HTTP/1.1 400"),
    (call("GET", "/source?bytes=" + "9" * 400), b"HTTP/1.1 400"),
    (call("GET", "/source?bytes=67108865"), b"HTTP/1.1 413"),
    (call("GET", "/../../etc/passwd"), b"HTTP/1.1 404"),
    (call("GET", "http://[::1"), b"HTTP/1.1 400"),
    (call("PUT", "/health"), b"HTTP/1.1 404"),
    (call("DELETE", "/sink"), b"HTTP/1.1 404"),
]


@pytest.mark.parametrize(("message", "answer"), HOSTILE)
def test_hostile_requests_are_refused_and_the_agent_lives(agent, client, message, answer, capfd):
    got = raw(agent, message)
    assert got.startswith(answer)
    assert b"Traceback" not in got
    assert b"Python" not in got
    assert client.request("GET", "/ping").body == b"{}"
    assert "Traceback" not in capfd.readouterr().err


def test_closing_ends_open_connections():
    running = Agent("127.0.0.1", 0, None, NONE)
    client = AgentClient(running.url)
    client.request("GET", "/ping")
    running.close()
    with pytest.raises(RequestError) as e:
        client.request("GET", "/ping")
    assert e.value.reason == "cut"


def test_no_token_binds_loopback_alone():
    with pytest.raises(AgentError, match="expected a token, got none.*or bind 127"):
        Agent("0.0.0.0", 0, None, NONE)
    with pytest.raises(AgentError, match="agent: expected an address of this host"):
        Agent("", 0, None, NONE)
    with Agent("0.0.0.0", 0, TOKEN, NONE) as running:
        assert running.port > 0


def test_addresses_that_cannot_be_bound_are_told(agent):
    with pytest.raises(AgentError, match="choose another --port"):
        Agent("127.0.0.1", agent.port, TOKEN, NONE)
    with pytest.raises(AgentError, match="expected a port"):
        Agent("127.0.0.1", 70_000, TOKEN, NONE)
    with pytest.raises(AgentError, match="expected an address"):
        Agent("no such host", 0, TOKEN, NONE)


def test_tokens_come_from_the_file_then_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("CR2FAST_PROFILE_TOKEN", raising=False)
    assert read_token() is None
    monkeypatch.setenv("CR2FAST_PROFILE_TOKEN", f"{TOKEN}\n")
    assert read_token() == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}-file\n")
    assert read_token(tmp_path / "token") == f"{TOKEN}-file"
    (tmp_path / "token").write_text("hunter2")
    with pytest.raises(AgentError, match="at least 16 printable") as e:
        read_token(tmp_path / "token")
    assert "hunter2" not in str(e.value)
    with pytest.raises(AgentError, match="token file .*absent"):
        read_token(tmp_path / "absent")
    with pytest.raises(AgentError):
        check_token("a token with spaces in it")


SERVE = """
from cr2fast_profiler.agent.server import serve_agent
from cr2fast_profiler.meters.base import Reason, Unavailable
none = Unavailable("rapl", Reason.NOT_PRESENT, "no sensor")
serve_agent("127.0.0.1", 0, None, none, ready=lambda agent: print(agent.url, flush=True))
print("closed", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_cleanly(number):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    url = process.stdout.readline().strip()
    client = AgentClient(url)
    client.request("GET", "/ping")
    process.send_signal(number)
    out, err = process.communicate()
    client.close()
    assert (process.returncode, out, err) == (0, "closed\n", "")


def test_an_event_ends_it_in_a_thread():
    stop, urls = threading.Event(), queue.SimpleQueue()
    thread = threading.Thread(
        target=serve_agent,
        args=("127.0.0.1", 0, None, NONE),
        kwargs={"ready": lambda a: urls.put(a.url), "stop": stop},
    )
    thread.start()
    with AgentClient(urls.get()) as client:
        client.request("GET", "/ping")
    stop.set()
    thread.join()
