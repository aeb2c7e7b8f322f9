"""The known server on a virtual clock: HTTP without sockets, through the client's own parser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
from fakes.clock import VirtualClock
from fakes.known import Manners, Reply, respond

from cr2fast_profiler.meters.base import Domain, Fault
from cr2fast_profiler.workload.endpoint import Endpoint

URL = "http://known.test:8000"
STEP_S = 0.05
Handle = Callable[[httpx2.Request], Reply]


class _Socket:
    """What a client may do to the connection of a response: hang up."""

    def __init__(self) -> None:
        self.closed = False

    def get_extra_info(self, _name: str) -> _Socket:
        return self

    def setsockopt(self, *_: int) -> None:
        pass

    def shutdown(self, _how: int) -> None:
        self.closed = True


class _Body(httpx2.SyncByteStream):
    """A reply's pieces, each when it is due; as over sockets a silence too long is a timeout."""

    def __init__(
        self, reply: Reply, clock: VirtualClock, start_ns: int, read_s: float, world: Virtual
    ) -> None:
        self.reply, self.clock, self.start_ns, self.read_s = reply, clock, start_ns, read_s
        self.world, self.socket = world, _Socket()
        self.phase = "prefill"

    def __iter__(self) -> Iterator[bytes]:
        for due_s, piece in self.reply.pieces:
            left_s = due_s - (self.clock() - self.start_ns) * 1e-9
            waited_s = 0.0
            # A stream that nobody ends may be hung up on; the wait is cut so that this is seen.
            while (
                left_s - waited_s > 2 * STEP_S and waited_s < self.read_s and not self.socket.closed
            ):
                self.clock.sleep(STEP_S)
                waited_s += STEP_S
            if self.socket.closed:
                raise httpx2.RemoteProtocolError("the connection was shut down")
            if left_s > self.read_s:
                raise httpx2.ReadTimeout("timed out")
            self.clock.sleep(max(left_s - waited_s, 0.0))
            if piece is None:
                raise httpx2.RemoteProtocolError("peer closed connection: incomplete body")
            if piece:
                # What came first is the role or the first token: what follows is decoding.
                if self.phase == "prefill":
                    self._enter("decode")
                yield piece

    def _enter(self, phase: str) -> None:
        self.world.change(self.phase, phase)
        self.phase = phase

    def close(self) -> None:
        self._enter("")


class Virtual(httpx2.BaseTransport):
    """Carries requests to `handle` on a clock; `serving` counts requests by phase.

    Parameters
    ----------
    clock : VirtualClock
        Shared with the client.
    handle : callable
        A request to a reply.
    delay_s : float
        Of a request on its way.
    """

    def __init__(self, clock: VirtualClock, handle: Handle, delay_s: float = 0.0) -> None:
        self.clock, self.handle, self.delay_s = clock, handle, delay_s
        self.requests: list[httpx2.Request] = []
        self.serving = {"prefill": 0, "decode": 0, "": 0}
        self.listeners: list[Callable[[], None]] = []

    def change(self, left: str, entered: str) -> None:
        for listener in self.listeners:
            listener()
        self.serving[left] -= 1
        self.serving[entered] += 1

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        start_ns = self.clock()
        self.clock.sleep(self.delay_s)
        reply = self.handle(request)
        self.change("", "prefill")
        read_s = request.extensions.get("timeout", {}).get("read") or float("inf")
        body = _Body(reply, self.clock, start_ns, read_s, self)
        return httpx2.Response(
            reply.status,
            headers=reply.headers,
            stream=body,
            extensions={"network_stream": body.socket},
        )


class World:
    """A clock, a known server on it, and endpoints that ask it."""

    def __init__(self, **manners: Any) -> None:
        self.clock = VirtualClock()
        self.manners = Manners(**manners)
        self.transport = Virtual(self.clock, self._handle)

    def _handle(self, request: httpx2.Request) -> Reply:
        path = request.url.raw_path.decode()
        return respond(self.manners, request.method, path, request.headers, request.content)

    def endpoint(self, model: str | None = None, url: str = URL, **options: Any) -> Endpoint:
        return Endpoint(url, model, clock=self.clock, transport=self.transport, **options)


class Heater:
    """A meter of the world's board: exact joules, handed out on ticks."""

    poll_s = 0.002

    def __init__(
        self,
        world: World,
        *,
        idle_w: float = 5.0,
        prefill_w: float = 20.0,
        decode_w: float = 20.0,
        tick_s: float = 0.01,
    ) -> None:
        self.domains = (Domain("board", "board", "replay"),)
        self.faults: list[Fault] = []
        self.world, self.tick_ns = world, round(tick_s * 1e9)
        self.watts = {"prefill": prefill_w, "decode": decode_w}
        self.idle_w = idle_w
        self.joules, self.last_ns = 0.0, world.clock()
        self.shown = (self.last_ns, 0.0)
        world.transport.listeners.append(self.settle)

    def settle(self) -> None:
        """Add up to now, at the watts that held until now."""
        serving, now_ns = self.world.transport.serving, self.world.clock()
        watts = self.idle_w + sum(w for k, w in self.watts.items() if serving[k] > 0)
        edge_ns = now_ns - now_ns % self.tick_ns
        if edge_ns > self.last_ns:
            self.shown = (edge_ns, self.joules + (edge_ns - self.last_ns) * 1e-9 * watts)
        self.joules += (now_ns - self.last_ns) * 1e-9 * watts
        self.last_ns = now_ns

    def read(self):
        self.settle()
        return self.world.clock(), np.array([self.shown[1]])

    def close(self) -> None:
        pass
