"""Joules of a remote host, read from its agent.

In: the agent's address and token. Out: a meter of source "agent" whose domains are named
"HOST/DOMAIN", so that no remote joule can pass for a local one. A reading's time is the local
monotonic clock at the middle of the request: t = (t_sent + t_received) / 2, off by at most half
of it. Remote faults are carried over at t − age.

An agent that is lost gives NaN, with a LOST fault for each outage, and is tried again; one that
restarted counts from elsewhere: that reading is NaN with a RESET fault, and later ones go on from
the last.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast_profiler.agent.client import AgentClient, Reply, RequestError
from cr2fast_profiler.agent.wire import SCHEMA, TOKEN_VARIABLE, host_id
from cr2fast_profiler.clock import SYSTEM, Now
from cr2fast_profiler.meters.base import Domain, Fault, MeterError, Reason, Unavailable

SOURCE = "agent"
LEAST_POLL_S = 0.01
RETRY_S = 0.5
"""Pause between attempts to reach an agent that is lost."""
MAX_DOMAINS = 256

REMEDIES = {
    "unauthorized": (
        Reason.PERMISSION,
        f"set {TOKEN_VARIABLE} or the token file to the token the agent was started with",
    ),
    "unreachable": (
        Reason.NOT_PRESENT,
        "start `cr2fast-profile agent` on the endpoint's host, or tunnel its port here",
    ),
    "timeout": (Reason.NOT_PRESENT, "see whether the agent's host is up and the port is open"),
}
NO_AGENT = (Reason.NOT_SUPPORTED, "give the address of a `cr2fast-profile agent`")


@dataclass(frozen=True)
class _Answer:
    """A reply of /energy, validated."""

    host: str
    host_id: str
    session: str
    poll_s: float
    domains: tuple[Domain, ...]
    joules: npt.NDArray[np.float64]
    age_ns: int
    fault_count: int
    faults: tuple[tuple[int, str, Reason, str], ...]
    """(age_ns at the reading, domain, reason, detail)."""


class AgentMeter:
    """A meter of the host an agent runs on.

    Parameters
    ----------
    url : str
        The agent's address.
    token : str or None
        Its token.
    timeout_s : float
        Longest wait for the agent; a reading of a dead one takes no longer.
    clock : callable
        Monotonic ns.
    sockets : callable
        As of :class:`~cr2fast_profiler.agent.client.AgentClient`.

    Attributes
    ----------
    host : str
        The remote host's name, as it says.
    same_host : bool
        Whether that host is this one: local meters then count the same joules.
    remote_domains : tuple of Domain
        The domains as the agent has them, with their own sources.

    Raises
    ------
    MeterError
        No agent there, a wrong token, or an agent without a meter; with the remedy.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout_s: float = 2.0,
        *,
        clock: Now = SYSTEM,
        sockets: Callable[..., Any] = socket.socket,
    ) -> None:
        self._clock = clock
        try:
            self._client = AgentClient(url, token, timeout_s, clock=clock, sockets=sockets)
            reply = self._client.request("GET", "/energy")
            answer = _read(reply.json())
        except RequestError as e:
            reason, remedy = REMEDIES.get(e.reason, NO_AGENT)
            raise MeterError(Unavailable(SOURCE, reason, str(e), remedy)) from None
        if isinstance(answer, Unavailable):
            self._client.close()
            raise MeterError(answer)
        self.host = answer.host
        self.same_host = answer.host_id == host_id()
        self.remote_domains = answer.domains
        self.domains = tuple(
            Domain(f"{answer.host}/{d.name}", d.kind, SOURCE, d.in_total, d.estimated)
            for d in answer.domains
        )
        self.poll_s = max(answer.poll_s, LEAST_POLL_S)
        self.faults: list[Fault] = []
        self._session = answer.session
        self._seen = answer.fault_count
        self._last = np.zeros(len(self.domains))
        self._offset = -answer.joules
        self._retry_ns = 0
        self._is_lost = False
        self._last_ns = _midpoint(reply) - answer.age_ns

    def read(self) -> tuple[int, npt.NDArray[np.float64]]:
        """(t_ns, joules) as of :class:`Meter`; never raises for what the agent does."""
        now = self._clock()
        if now < self._retry_ns:
            return self._lost(now, "the agent is lost; waiting to try again")
        try:
            reply = self._client.request("GET", "/energy")
            answer = _read(reply.json())
        except RequestError as e:
            self._retry_ns = self._clock() + round(RETRY_S * 1e9)
            return self._lost(self._clock(), f"the agent is lost ({e}); does it still run?")
        t_ns = _midpoint(reply)
        if isinstance(answer, Unavailable):
            return self._lost(t_ns, f"the agent has no meter any more: {answer.detail}")
        if answer.domains != self.remote_domains or answer.host != self.host:
            return self._lost(t_ns, "another agent answers, or its domains changed")
        self._retry_ns, self._is_lost = 0, False
        t_ns -= answer.age_ns
        self._carry_faults(t_ns, answer)
        # Two stale readings may seem out of order; a trace's times increase.
        t_ns = self._last_ns = max(t_ns, self._last_ns + 1)
        return t_ns, self._follow(t_ns, answer)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _lost(self, t_ns: int, detail: str) -> tuple[int, npt.NDArray[np.float64]]:
        # One fault for an outage; its readings are NaN one by one, so that none is silent.
        if not self._is_lost:
            self._is_lost = True
            self._fault_all(t_ns, Reason.LOST, detail)
        t_ns = self._last_ns = max(t_ns, self._last_ns + 1)
        return t_ns, np.full(len(self.domains), np.nan)

    def _fault_all(self, t_ns: int, reason: Reason, detail: str) -> None:
        self.faults += [Fault(t_ns, d.name, reason, detail) for d in self.domains]

    def _carry_faults(self, t_ns: int, answer: _Answer) -> None:
        seen = self._seen if answer.session == self._session else 0
        fresh = answer.faults[-(answer.fault_count - seen) :] if answer.fault_count > seen else ()
        self._seen = answer.fault_count
        self.faults += [
            Fault(t_ns - age, f"{self.host}/{domain}", reason, f"{self.host}: {detail}")
            for age, domain, reason, detail in fresh
        ]

    def _follow(self, t_ns: int, answer: _Answer) -> npt.NDArray[np.float64]:
        joules = answer.joules + self._offset
        if answer.session != self._session:
            self._session = answer.session
            self._fault_all(t_ns, Reason.RESET, "the agent restarted; joules between are not known")
            reset = np.ones(len(joules), dtype=bool)
        else:
            reset = joules < self._last
            for i in np.flatnonzero(reset):
                name = self.domains[i].name
                self.faults.append(Fault(t_ns, name, Reason.RESET, "cumulative joules decreased"))
        # A domain first seen now, or seen anew, goes on from the last joules that could be trusted.
        starts = reset | (np.isnan(self._offset) & np.isfinite(answer.joules))
        self._offset[starts] = self._last[starts] - answer.joules[starts]
        joules = np.where(reset, np.nan, answer.joules + self._offset)
        for i in np.flatnonzero(np.isnan(joules) & ~reset):
            detail = f"{self.host}: the agent does not trust this reading"
            self.faults.append(Fault(t_ns, self.domains[i].name, Reason.REMOTE, detail))
        self._last = np.where(np.isnan(joules), self._last, joules)
        return joules


def _midpoint(reply: Reply) -> int:
    return (reply.start_ns + reply.end_ns) // 2


def _read(value: dict[str, Any]) -> _Answer | Unavailable:
    try:
        return _parse(value)
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise RequestError(
            "bad_reply", f"expected the joules of an agent, got an answer without: {e}"
        ) from None


def _parse(value: dict[str, Any]) -> _Answer | Unavailable:
    if value.get("schema") != SCHEMA:
        raise ValueError(f"schema {SCHEMA}")
    if "unavailable" in value:
        u = value["unavailable"]
        return Unavailable(
            SOURCE,
            Reason(u["reason"]),
            f"{_text(value['host'])} has no meter: {_text(u['source'])}: {_text(u['detail'])}",
            _text(u["remedy"]),
        )
    domains = tuple(
        Domain(
            _text(d["name"]),
            _text(d["kind"]),
            _text(d["source"]),
            _flag(d["in_total"]),
            _flag(d["estimated"]),
        )
        for d in value["domains"]
    )
    joules = [math.nan if j is None else _number(j) for j in value["joules"]]
    if not 1 <= len(domains) <= MAX_DOMAINS or len(joules) != len(domains):
        raise ValueError("as many joules as domains")
    if len({d.name for d in domains}) != len(domains):
        raise ValueError("distinct domains")
    faults = tuple(
        (
            round(_number(f["age_s"]) * 1e9),
            _text(f["domain"]),
            Reason(f["reason"]),
            _text(f["detail"]),
        )
        for f in value["faults"]
    )
    count = value["fault_count"]
    if not isinstance(count, int) or count < len(faults):
        raise ValueError("fault_count")
    return _Answer(
        host=_text(value["host"]),
        host_id=_text(value["host_id"]),
        session=_text(value["session"]),
        poll_s=_number(value["poll_s"]),
        domains=domains,
        joules=np.array(joules),
        age_ns=round(_number(value["age_s"]) * 1e9),
        fault_count=count,
        faults=faults,
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError("a short text")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("a finite number")
    return float(value)
