"""One round of probes of a link, in random order, as rows.

In: an agent's client, sizes, a seed. Out: rows of

- ``idle_first``, ``idle_second``: two tiny requests after a silence: what a radio's power save
  adds to the first;
- ``connect``: a fresh TCP connection (name resolution apart);
- ``request``: a tiny request on the warm connection;
- ``uplink``, ``downlink``: a body of some bytes, incompressible, one way; ``warmup`` the same, to
  open the congestion window that a silence closed, and kept out of fits.

Durations are of the monotonic clock. A failed probe is a row with its reason.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from cr2fast_profiler.agent.client import AgentClient, Reply, RequestError
from cr2fast_profiler.clock import SYSTEM, Clock
from cr2fast_profiler.errors import LinkError

TRANSFERS = ("uplink", "downlink")
GONE = ("unreachable", "timeout")
"""Failures after which the rest of a round would only wait."""


@dataclass(frozen=True)
class Plan:
    """What a round sends.

    Attributes
    ----------
    sizes_bytes : tuple of int
        Payloads each way.
    repeats : int
        Transfers a size a way.
    pings, connects : int
        Requests and fresh connections.
    idle_gap_s : float
        Silence before the pair; 0 leaves the pair out.
    """

    sizes_bytes: tuple[int, ...]
    repeats: int
    pings: int
    connects: int
    idle_gap_s: float


@dataclass(frozen=True)
class Row:
    """One probe; `duration_s` is None where it failed, `reason` then says how."""

    round: int
    order: int
    kind: str
    bytes: int
    start_ns: int
    duration_s: float | None
    dns_s: float | None
    sent_bytes: int
    received_bytes: int
    reason: str


def order_of(plan: Plan, seed: int, number: int) -> list[tuple[str, int]]:
    """(kind, bytes) of a round: the pair and the warm-up first, the rest shuffled."""
    rest = [("request", 0)] * plan.pings + [("connect", 0)] * plan.connects
    rest += [(way, size) for way in TRANSFERS for size in plan.sizes_bytes] * plan.repeats
    shuffled = np.random.default_rng((seed, number)).permutation(len(rest))
    first = [("idle_first", 0), ("idle_second", 0)] if plan.idle_gap_s > 0 else []
    first += [(f"warmup_{way}", max(plan.sizes_bytes)) for way in TRANSFERS]
    return first + [rest[i] for i in shuffled]


class Prober:
    """Runs rounds over one warm connection and fresh ones beside it."""

    def __init__(
        self,
        client: AgentClient,
        fresh: AgentClient,
        plan: Plan,
        seed: int,
        clock: Clock = SYSTEM,
    ) -> None:
        self.clock = clock
        self._client, self._fresh, self._plan, self._seed = client, fresh, plan, seed
        self._payload = os.urandom(max(plan.sizes_bytes))

    def run(self, number: int) -> list[Row]:
        """All probes of one round; fewer where the agent is gone.

        Raises
        ------
        LinkError
            The agent refuses the token.
        """
        rows = []
        for order, (kind, size) in enumerate(order_of(self._plan, self._seed, number)):
            start = self.clock()
            try:
                rows.append(self._probe(number, order, kind, size))
            except RequestError as e:
                if e.reason == "unauthorized":
                    raise LinkError(f"the agent refuses the token: {e}") from None
                rows.append(Row(number, order, kind, size, start, None, None, 0, 0, e.reason))
                if e.reason in GONE:
                    break
        return rows

    def _probe(self, number: int, order: int, kind: str, size: int) -> Row:
        if kind == "connect":
            start = self.clock()
            try:
                opened = self._fresh.open()
            finally:
                self._fresh.close()
            return Row(number, order, kind, 0, start, opened.connect_s, opened.dns_s, 0, 0, "")
        self._warm()
        if kind == "idle_first":
            self.clock.sleep(self._plan.idle_gap_s)
        way = kind.removeprefix("warmup_")
        if way == "uplink":
            reply = self._send(size)
        elif way == "downlink":
            reply = self._client.request("GET", f"/source?bytes={size}", keep=False)
            if reply.body_bytes != size:
                raise RequestError("bad_reply", f"asked for {size} bytes: {reply.body_bytes} came")
        else:
            reply = self._client.request("GET", "/ping")
        name = "warmup" if kind.startswith("warmup") else kind
        return Row(
            number, order, name, size, reply.start_ns, reply.duration_s, None,
            reply.sent_bytes, reply.received_bytes, "",
        )  # fmt: skip

    def _warm(self) -> None:
        if not self._client.is_open:
            self._client.open()
            self._client.request("GET", "/ping")

    def _send(self, size: int) -> Reply:
        reply = self._client.request("POST", "/sink", self._payload[:size])
        if reply.json().get("bytes") != size:
            raise RequestError("bad_reply", f"sent {size} bytes: the agent counts others")
        return reply
