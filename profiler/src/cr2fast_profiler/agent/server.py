"""The agent: what a profiler elsewhere needs of the host of a remote endpoint.

In: a meter of this host (or the reason for none), an address, a token. Out: an HTTP server with

- ``GET /health``: who answers; ``GET /ping``: the smallest answer on a kept-alive connection;
- ``GET /energy``: cumulative joules of each domain now, faults, or why there are none;
- ``POST /sink``: reads and counts the body; ``GET /source?bytes=N``: N incompressible bytes.

Every route asks for ``Authorization: Bearer TOKEN``. Without a token the agent binds loopback only.
It speaks plain HTTP: across a network that others can read, tunnel it.

``joules`` are null where untrusted. Times of another host mean nothing here, so faults carry their
age at the reading.
"""

from __future__ import annotations

import ipaddress
import math
import platform
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

from cr2fast_profiler import __version__
from cr2fast_profiler.agent.http import Server
from cr2fast_profiler.agent.wire import SCHEMA, TOKEN_VARIABLE, check_token, host_id
from cr2fast_profiler.clock import SYSTEM, Clock, Ticker
from cr2fast_profiler.errors import AgentError
from cr2fast_profiler.meters.base import Meter, Unavailable

MOST_FAULTS = 256
"""Faults in one answer: the newest."""


class EnergySource:
    """A meter that many threads may ask, polled as often as it needs even when nobody asks."""

    def __init__(self, meter: Meter | Unavailable, clock: Clock = SYSTEM) -> None:
        self._meter, self._clock = meter, clock
        self._lock = threading.Lock()
        self._session = secrets.token_hex(8)
        self._ticker: Ticker | None = None
        if not isinstance(meter, Unavailable):
            self._ticker = clock.every(meter.poll_s, partial(self._poll, meter))

    def _poll(self, meter: Meter) -> None:
        # A meter that raises shows in answers; polling goes on, or a counter would wrap unseen.
        with self._lock, suppress(Exception):
            meter.read()

    def close(self) -> None:
        """Stop polling; the meter stays its owner's."""
        if self._ticker is not None:
            self._ticker.stop()

    def answer(self) -> dict[str, Any]:
        """What /energy replies."""
        meter = self._meter
        if isinstance(meter, Unavailable):
            reason = {
                "source": meter.source,
                "reason": meter.reason.value,
                "detail": meter.detail,
                "remedy": meter.remedy,
            }
            return {"schema": SCHEMA, "host": platform.node(), "unavailable": reason}
        with self._lock:
            t_ns, joules = meter.read()
            faults = meter.faults[-MOST_FAULTS:]
            count = len(meter.faults)
        return {
            "schema": SCHEMA,
            "host": platform.node(),
            "host_id": host_id(),
            "session": self._session,
            "poll_s": meter.poll_s,
            "domains": [
                {
                    "name": d.name,
                    "kind": d.kind,
                    "source": d.source,
                    "in_total": d.in_total,
                    "estimated": d.estimated,
                }
                for d in meter.domains
            ],
            "joules": [float(j) if math.isfinite(j) else None for j in joules],
            "age_s": (self._clock() - t_ns) * 1e-9,
            "fault_count": count,
            "faults": [
                {
                    "age_s": (t_ns - f.t_ns) * 1e-9,
                    "domain": f.domain,
                    "reason": f.reason.value,
                    "detail": f.detail,
                }
                for f in faults
            ],
        }


def _health() -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "version": __version__,
        "host": platform.node(),
        "host_id": host_id(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


class Agent:
    """A running agent; close it, or use it in a ``with`` statement.

    Parameters
    ----------
    host : str
        Address to bind.
    port : int
        0 takes a free one; `port` then says which.
    token : str or None
        What clients must present; None on loopback alone.
    meter : Meter or Unavailable
        This host's meter, which stays the caller's to close, or why there is none.
    clock : Clock
        The meter's own, and of the bounds on clients.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token: str | None,
        meter: Meter | Unavailable,
        clock: Clock = SYSTEM,
    ) -> None:
        family, address = _resolve(host, port)
        if token is not None:
            check_token(token)
        elif not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
            raise AgentError(
                f"agent: binding {host} lets other hosts in: expected a token, got none; set "
                f"{TOKEN_VARIABLE} or pass --token-file, or bind 127.0.0.1"
            )
        self._energy = EnergySource(meter, clock)
        routes = {"/health": _health, "/energy": self._energy.answer}
        try:
            self._server = Server(address, family, token, routes, clock)
        except OSError as e:
            self._energy.close()
            raise AgentError(
                f"agent: cannot bind {host} port {port}: {e.strerror}; choose another --port"
            ) from None
        bound = self._server.socket.getsockname()
        self.host, self.port = str(bound[0]), int(bound[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.port}"

    def close(self) -> None:
        """Stop, and end the connections that are open."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._energy.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    if not 0 <= port < 65_536:
        raise AgentError(f"agent: expected a port from 0 to 65535, got {port}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as e:
        raise AgentError(f"agent: expected an address of this host, got {host!r}: {e}") from None
    family, _, _, _, address = found[0]
    return family, address


def serve_agent(
    host: str,
    port: int,
    token: str | None,
    meter: Meter | Unavailable,
    ready: Callable[[Agent], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or `stop`, then close cleanly.

    Parameters
    ----------
    host, port, token, meter
        As of :class:`Agent`; `meter` stays the caller's to close.
    ready : callable, optional
        Called with the agent once it listens.
    stop : threading.Event, optional
        Ends it when set.
    """
    event = stop or threading.Event()
    with _signals() as ended, Agent(host, port, token, meter) as agent:
        if ready is not None:
            ready(agent)
        while not (ended or event.wait(0.2)):
            pass


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, where this is the main thread."""
    ended: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield ended
        return

    # A handler that set an event could interrupt a wait that holds the event's lock.
    def end(number: int, _frame: FrameType | None) -> None:
        ended.append(number)

    before = {n: signal.signal(n, end) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
