"""A link on a virtual clock: sockets without an operating system, with known rates and delays.

Every chunk leaves at t_k = max(now, t_(k-1)) + 8·bytes/rate and arrives a delay later. At the far
end the agent's own handler serves each request, at once.
"""

from __future__ import annotations

import io
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fakes.clock import VirtualClock

from cr2fast_profiler.agent.http import Handler, Server

CHUNK = 4096


@dataclass
class Shape:
    """One direction: bit/s and seconds; `wake_s` is added to what follows `sleep_after_s` of silence."""

    rate_bps: float
    delay_s: float
    wake_s: float = 0.0
    sleep_after_s: float = 0.0


class Connection:
    """The agent's end, as its handler sees it: the request's bytes, then the end."""

    def __init__(self, request: bytes) -> None:
        self.given, self.sent = io.BytesIO(request), bytearray()

    def recv(self, size: int) -> bytes:
        return self.given.read(size)

    def sendall(self, data: Any) -> None:
        self.sent += data

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO()

    def settimeout(self, seconds: float | None) -> None:
        pass

    def setsockopt(self, *_: Any) -> None:
        pass


class VirtualSocket:
    """The client's end."""

    def __init__(self, network: Network) -> None:
        self.network, self.clock = network, network.clock
        self.timeout_s = math.inf
        self.asked = bytearray()
        self.arrives_ns = 0
        self.coming: deque[tuple[int, bytes]] = deque()
        self.passed = 0
        self.last_ns = -(1 << 60)
        self.open = self.ended = False

    def settimeout(self, seconds: float | None) -> None:
        self.timeout_s = math.inf if seconds is None else seconds

    def setsockopt(self, *_: Any) -> None:
        pass

    def connect(self, address: Any) -> None:
        if self.network.dead:
            raise ConnectionRefusedError(111, "Connection refused")
        self.clock.sleep(self.network.connect_s)
        self.open = True
        self.network.connections.append(self)

    def sendall(self, data: bytes) -> None:
        if not self.open or self.network.dead:
            raise BrokenPipeError(32, "Broken pipe")
        network, now_ns = self.network, self.clock()
        if now_ns - self.last_ns > network.up.sleep_after_s * 1e9:
            network.free_up_ns = max(network.free_up_ns, now_ns) + round(network.up.wake_s * 1e9)
        for at in range(0, len(data), CHUNK):
            part = data[at : at + CHUNK]
            self.passed += len(part)
            if network.cuts and self.passed > network.cut_bytes:
                network.cuts -= 1
                self.open = False
                return
            spent_ns = round(8e9 * len(part) / network.up.rate_bps)
            network.free_up_ns = max(network.free_up_ns, now_ns) + spent_ns
            self.asked += part
        self.arrives_ns = network.free_up_ns + round(network.up.delay_s * 1e9)
        self.last_ns = network.free_up_ns

    def recv(self, size: int) -> bytes:
        if self.asked and self.open:
            self._serve()
        if not self.coming:
            if self.network.silent and self.open:
                self.clock.sleep(self.timeout_s)
                raise TimeoutError("timed out")
            return b""
        due_ns, part = self.coming[0]
        wait_s = (due_ns - self.clock()) * 1e-9
        if wait_s > self.timeout_s:
            self.clock.sleep(self.timeout_s)
            raise TimeoutError("timed out")
        self.clock.sleep(max(wait_s, 0.0))
        if self.network.dead or not self.open:
            return b""
        self.coming.popleft()
        return part

    def _serve(self) -> None:
        network = self.network
        if network.silent:
            self.asked.clear()
            return
        there = Connection(bytes(self.asked))
        self.asked.clear()
        Handler(there, ("192.0.2.7", 50_000), network.server)  # type: ignore[arg-type]
        for at in range(0, len(there.sent), CHUNK):
            part = bytes(there.sent[at : at + CHUNK])
            spent_ns = round(8e9 * len(part) / network.down.rate_bps)
            network.free_down_ns = max(network.free_down_ns, self.arrives_ns) + spent_ns
            self.coming.append((network.free_down_ns + round(network.down.delay_s * 1e9), part))

    def shutdown(self, _how: int) -> None:
        self.open = False

    def close(self) -> None:
        self.open = False


class Network:
    """A way to one agent.

    Parameters
    ----------
    token : str or None
        The agent's.
    up, down : Shape
        From the client, and to it.
    connect_s : float, optional
        Time of a connection; both delays unless a proxy in between answers it.
    cuts : int
        How many times to cut a connection after `cut_bytes` upward bytes.
    routes : dict
        The agent's.
    """

    URL = "http://192.0.2.1:8765"

    def __init__(
        self,
        clock: VirtualClock,
        token: str | None,
        up: Shape,
        down: Shape,
        *,
        connect_s: float | None = None,
        cuts: int = 0,
        cut_bytes: int = 0,
        routes: dict[str, Callable[[], dict[str, Any]]] | None = None,
    ) -> None:
        self.clock, self.up, self.down = clock, up, down
        self.connect_s = up.delay_s + down.delay_s if connect_s is None else connect_s
        self.cuts, self.cut_bytes = cuts, cut_bytes
        self.free_up_ns = self.free_down_ns = 0
        self.dead = self.silent = False
        self.connections: list[VirtualSocket] = []
        self.server = _Unbound(token, routes or {}, clock)

    def socket(self, *_: Any) -> VirtualSocket:
        return VirtualSocket(self)

    def kill(self) -> None:
        """The agent's process is no more: its connections end, new ones are refused."""
        self.dead = True
        for connection in self.connections:
            connection.open = False


class _Unbound(Server):
    """The agent's server without a socket."""

    def __init__(self, token: str | None, routes: Any, clock: VirtualClock) -> None:
        super().__init__(("127.0.0.1", 0), 2, token, routes, clock)  # type: ignore[arg-type]
        self.socket.close()

    def server_bind(self) -> None:
        self.server_address = ("127.0.0.1", 0)

    def server_activate(self) -> None:
        pass
