"""Who may hold a connection, and for how long: deadlines, idle strangers, crowded peers."""

from __future__ import annotations

import math
import socket
from contextlib import suppress

import pytest
from fakes.clock import VirtualClock
from fakes.network import Connection, Network, Shape

from cr2fast_profiler.agent import admission
from cr2fast_profiler.agent import http as agent_http
from cr2fast_profiler.agent.admission import peer_of
from cr2fast_profiler.agent.client import AgentClient
from cr2fast_profiler.agent.http import Handler, Reader
from cr2fast_profiler.agent.server import Agent
from cr2fast_profiler.meters.base import Reason, Unavailable

TOKEN = "a-token-of-enough-characters"
SHAPE = Shape(1e9, 0.0)
NONE = Unavailable("rapl", Reason.NOT_PRESENT, "no sensor")


class Slow:
    """A client on a virtual clock: sends a piece every so often, or nothing."""

    def __init__(self, *pieces: bytes, every_s: float = 1.0):
        self.clock = VirtualClock()
        self.pieces, self.every_s = list(pieces), every_s
        self.timeout_s = math.inf

    def settimeout(self, seconds):
        self.timeout_s = seconds

    def recv(self, size):
        if not self.pieces or self.every_s > self.timeout_s:
            self.clock.sleep(self.timeout_s)
            raise TimeoutError
        self.clock.sleep(self.every_s)
        return self.pieces.pop(0)


def ends_s(client, proven=False):
    """When a client is dropped, s after it connected."""
    reader = Reader(client, client.clock)
    reader.proven, start_ns = proven, client.clock()
    with suppress(TimeoutError):
        while reader.start_head():
            while reader.readline().strip():
                pass
    return (client.clock() - start_ns) * 1e-9


def test_a_client_that_trickles_its_head_is_dropped():
    assert ends_s(Slow(*[b"G"] * 1000)) == pytest.approx(agent_http.HANDSHAKE_S)
    trickled = agent_http.HEAD_S + 1
    assert ends_s(Slow(*[b"G"] * 1000), proven=True) == pytest.approx(trickled)


def test_a_silent_client_is_dropped():
    assert ends_s(Slow()) == pytest.approx(agent_http.HANDSHAKE_S)
    assert ends_s(Slow(), proven=True) == pytest.approx(agent_http.IDLE_S)


def test_a_stranger_has_one_deadline_for_many_heads():
    heads = [b"GET / HTTP/1.1\r\n\r\n"] * 1000
    assert ends_s(Slow(*heads)) == pytest.approx(agent_http.HANDSHAKE_S)


def test_a_body_that_stalls_is_dropped():
    client = Slow(b"12", every_s=5.0)
    reader = Reader(client, client.clock)
    reader.start_body()
    with pytest.raises(TimeoutError):
        reader.count(10)
    assert (client.clock() - VirtualClock()()) * 1e-9 == pytest.approx(5 + agent_http.SILENCE_S)


def test_a_client_that_does_not_read_is_dropped():
    clock = VirtualClock()
    network = Network(clock, TOKEN, SHAPE, SHAPE)

    class Full(Connection):
        def settimeout(self, seconds):
            self.timeout_s = seconds

        def sendall(self, data):
            clock.sleep(self.timeout_s)
            raise TimeoutError

    requests = b"".join(
        f"GET {route} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        for route in ("/source?bytes=67108864", "/ping")
    )
    start_ns = clock()
    handler = Handler(Full(requests), ("192.0.2.7", 1), network.server)
    assert handler.close_connection, "and the second request is not answered"
    assert (clock() - start_ns) * 1e-9 == pytest.approx(agent_http.SILENCE_S)


def never(monkeypatch):
    """No deadline ends a connection: whoever is served is so for another reason."""
    for name in ("HANDSHAKE_S", "HEAD_S", "IDLE_S"):
        monkeypatch.setattr(agent_http, name, 1e6)


@pytest.mark.parametrize("sent", [b"", b"GET /ping HTTP/1.1\r\n", b"\x16\x03\x01"])
def test_idle_connections_without_a_token_keep_nobody_out(monkeypatch, sent):
    never(monkeypatch)
    with Agent("127.0.0.1", 0, TOKEN, NONE) as running:
        held = []
        for _ in range(300):
            s = socket.create_connection(("127.0.0.1", running.port))
            s.sendall(sent)
            held.append(s)
        # All 300 stay open on their side, from this very address, and no deadline comes.
        with AgentClient(running.url, TOKEN) as first, AgentClient(running.url, TOKEN) as second:
            for client in (first, second) * 3:
                assert client.request("GET", "/ping").body == b"{}"
            assert len(running._server.admission) <= admission.MOST_A_PEER
            kept = first._socket
            address = ("127.0.0.1", running.port)
            held += [socket.create_connection(address) for _ in range(100)]
            assert first.request("GET", "/ping").body == b"{}"
            assert first._socket is kept, "a client that showed the token keeps its connection"
        for s in held:
            s.close()


def places(*peers, proven=()):
    made = admission.Admission(most=6, most_a_peer=3)
    for i, peer in enumerate(peers):
        assert made.admit(i, peer) == (True, None)
        if i in proven:
            made.serve(i)
            made.rest(i)
    return made


def test_a_full_house_ends_the_stranger_of_the_most_crowded_peer():
    made = places("a", "b", "b", "b", "c", "c", proven=(1,))
    assert made.admit("new", "good") == (True, 2), "the oldest unproven of b; 1 has the token"
    assert made.admit("newer", "good") == (True, 4), "then c is the most crowded, after b"
    assert len(made) == 6


def test_a_peer_at_its_bound_loses_its_own():
    made = places("a", "a", "a", "b", proven=(0,))
    assert made.admit("new", "a") == (True, 1)
    assert made.admit("b2", "b") == (True, None), "others are not touched"


def test_who_has_the_token_gives_way_last_and_only_while_idle():
    made = places("a", "a", "b", "b", "c", "c", proven=range(6))
    made.serve(0)
    made.serve(2)
    made.rest(2)
    assert made.admit("new", "d") == (True, 1), "idle for longest"
    for i in (2, 3, 4, 5, "new"):
        made.serve(i)
    assert made.admit("none", "d") == (False, None), "all are being served"
    made.leave(0)
    assert made.admit("one", "d") == (True, None)


def test_one_host_of_many_addresses_is_one_peer():
    assert peer_of("2001:db8::1") == peer_of("2001:db8::ffff:2")
    assert peer_of("2001:db8::1") != peer_of("2001:db8:0:1::1")
    assert peer_of("::ffff:192.0.2.1") == peer_of("192.0.2.1")
    assert peer_of("fe80::1%eth0") == peer_of("fe80::2%eth1")
