"""The agent's client against servers that are no agents."""

from __future__ import annotations

import socket
import threading

import pytest
from fakes.clock import VirtualClock
from fakes.network import Network, Shape

from cr2fast_profiler.agent.client import AgentClient, RequestError

SHAPE = Shape(1e9, 0.0)

BAD_SERVERS = [
    (b"", "cut"),
    (b"SSH-2.0-OpenSSH\r\n\r\n", "bad_reply"),
    (b"HTTP/1.1 200 OK\r\n\r\n", "bad_reply"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "bad_reply"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "bad_reply"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}", "cut"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}", "bad_reply"),
    (b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno", "http_status"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "bad_reply"),
    (b"a" * 40_000, "bad_reply"),
]


@pytest.mark.parametrize(("answer", "reason"), BAD_SERVERS)
def test_what_is_no_agent_is_told_by_reason(answer, reason):
    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        client = AgentClient(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(RequestError) as e:
            client.request("GET", "/health").json()
        thread.join()
        client.close()
    assert e.value.reason == reason


def test_a_server_that_says_nothing_is_a_timeout():
    clock = VirtualClock()
    network = Network(clock, None, SHAPE, SHAPE)
    network.silent = True
    client = AgentClient(network.URL, None, 0.2, clock=clock, sockets=network.socket)
    with pytest.raises(RequestError, match="no byte for 0.2 s") as e:
        client.request("GET", "/health")
    assert e.value.reason == "timeout"


@pytest.mark.parametrize(
    "url", ["", "host:1", "ftp://h", "http://", "http://h:99999", "http://u:p@h", "http://h/?q", "http://[::1", "http://bücher.example", "http://h/a b", "http://h/\r\nX: y"]
)  # fmt: skip
def test_bad_urls_are_refused(url):
    with pytest.raises(RequestError, match="agent URL"):
        AgentClient(url)


@pytest.mark.parametrize("token", ["é" * 20, "a\r\nX: y", "a b"])
def test_tokens_no_header_can_carry_are_refused(token):
    with pytest.raises(RequestError, match="token: expected printable ASCII") as e:
        AgentClient("http://127.0.0.1:1", token)
    assert token not in str(e.value)
