"""Measure a link: rounds of probes against an agent, until enough or the budget ends.

In: the agent's address and token, options. Out: a :class:`LinkMeasurement`; with a folder also
``rows/*.parquet`` (every probe, as it comes), ``run.json`` and ``link.json``. Called again with the
same folder and options it goes on where it stopped; with all rounds there it probes no more.
"""

from __future__ import annotations

import platform
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from cr2fast_profiler import __version__
from cr2fast_profiler.agent.client import AgentClient, RequestError
from cr2fast_profiler.agent.wire import MAX_TRANSFER_BYTES, SCHEMA, host_id
from cr2fast_profiler.clock import SYSTEM, Clock
from cr2fast_profiler.errors import LinkError
from cr2fast_profiler.files import write_atomically
from cr2fast_profiler.link.estimate import estimate, read_round
from cr2fast_profiler.link.measurement import Flag, LinkMeasurement
from cr2fast_profiler.link.probe import GONE, Plan, Prober, Row
from cr2fast_profiler.link.rows import Store, frame

GONE_ROUNDS = 3
"""Rounds in a row without an agent that end the run."""
RETRY_S = 0.5


@dataclass(frozen=True)
class LinkOptions:
    """How to measure.

    Attributes
    ----------
    rounds : int
        Joint samples to take.
    sizes_bytes : tuple of int
        Payloads, each way, of the order of prompts and answers; at least two.
    repeats : int
        Transfers a size, way and round.
    pings, connects : int
        Requests and fresh connections a round.
    idle_gap_s : float
        Silence before the pair that shows power save; 0 leaves the pair out.
    timeout_s : float
        Longest wait for a byte.
    confidence : float
        Level of the intervals.
    seed : int
        Of the order of probes and of the bootstrap.
    """

    rounds: int = 30
    sizes_bytes: tuple[int, ...] = (2_048, 8_192, 32_768, 131_072)
    repeats: int = 2
    pings: int = 5
    connects: int = 3
    idle_gap_s: float = 1.0
    timeout_s: float = 30.0
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        sizes = self.sizes_bytes
        checks = [
            (3 <= self.rounds <= 100_000, "rounds", "3 to 100000", self.rounds),
            (
                len(set(sizes)) >= 2
                and len(sizes) <= 16
                and all(1 <= s <= MAX_TRANSFER_BYTES for s in sizes),
                "sizes_bytes",
                f"2 to 16 sizes, of 1 to {MAX_TRANSFER_BYTES} bytes",
                sizes,
            ),
            (1 <= self.repeats <= 100, "repeats", "1 to 100", self.repeats),
            (len(sizes) * self.repeats >= 3, "repeats", "3 transfers a way or more", self.repeats),
            (1 <= self.pings <= 1000, "pings", "1 to 1000", self.pings),
            (1 <= self.connects <= 1000, "connects", "1 to 1000", self.connects),
            (0 <= self.idle_gap_s <= 60, "idle_gap_s", "0 to 60 s", self.idle_gap_s),
            (0 < self.timeout_s <= 600, "timeout_s", "0 to 600 s", self.timeout_s),
            (0.5 <= self.confidence < 1, "confidence", "0.5 to 1", self.confidence),
            (self.seed >= 0, "seed", "0 or more", self.seed),
        ]
        for right, name, expected, got in checks:
            if not right:
                raise LinkError(f"{name}: expected {expected}, got {got}")


def measure_link(
    url: str,
    token: str | None,
    *,
    out: str | Path | None = None,
    options: LinkOptions | None = None,
    budget_s: float | None = None,
    progress: bool = True,
    clock: Clock = SYSTEM,
    sockets: Callable[..., Any] = socket.socket,
) -> LinkMeasurement:
    """Measure round trip and rates between this host and an agent's.

    Parameters
    ----------
    url : str
        The agent's address, "http://host:port".
    token : str or None
        Its token.
    out : path, optional
        Folder of the run: rows, ``run.json``, ``link.json``. Without it nothing is kept.
    options : LinkOptions, optional
        How to measure.
    budget_s : float, optional
        Start no round after this many seconds.
    progress : bool
        Show a bar with the time left.
    clock : Clock
        What probes are timed by and waits are waited on.
    sockets : callable
        As of :class:`~cr2fast_profiler.agent.client.AgentClient`.

    Raises
    ------
    LinkError
        No agent, a wrong token, a folder of another run, an agent that is gone, or a link that
        these probes cannot resolve.
    """
    asked = options or LinkOptions()
    client, fresh = (_client(url, token, asked.timeout_s, clock, sockets) for _ in range(2))
    try:
        health = _greet(client)
        started = {
            "started_utc": _utc(),
            "local_host": platform.node(),
            "remote_host": health["host"],
            "same_host": health.get("host_id") == host_id(),
            "remote_system": str(health.get("system"))[:200],
            "agent_version": str(health.get("version"))[:200],
        }
        identity = {"url": client.url, **asdict(asked), "remote_host": health["host"]}
        del identity["rounds"], identity["confidence"]
        store = Store(None if out is None else Path(out), identity, started)
        plan = Plan(asked.sizes_bytes, asked.repeats, asked.pings, asked.connects, asked.idle_gap_s)
        prober = Prober(client, fresh, plan, asked.seed, clock)
        _run(store, prober, asked.rounds, budget_s, progress)
    finally:
        client.close()
        fresh.close()
    measured = _conclude(store, asked, client.url)
    if out is not None:
        write_atomically(Path(out) / "link.json", measured.to_json().encode())
    return measured


def _client(
    url: str, token: str | None, timeout_s: float, clock: Clock, sockets: Callable[..., Any]
) -> AgentClient:
    try:
        return AgentClient(url, token, timeout_s, clock=clock, sockets=sockets)
    except RequestError as e:
        raise LinkError(str(e)) from None


def _greet(client: AgentClient) -> dict[str, Any]:
    try:
        health = client.request("GET", "/health").json()
    except RequestError as e:
        remedy = {
            "unauthorized": "give the token the agent was started with",
            "unreachable": "start `cr2fast-profile agent` there, or tunnel its port here",
        }.get(e.reason, "give the address of a `cr2fast-profile agent`")
        raise LinkError(f"link: {e}; {remedy}") from None
    host = health.get("host")
    if health.get("schema") != SCHEMA or not isinstance(host, str) or len(host) > 255:
        raise LinkError(
            f"link: {client.url}: expected an agent of schema {SCHEMA}, got "
            f"{health.get('schema')!r}; run the same version of cr2fast-profiler there"
        )
    return health


def _run(store: Store, prober: Prober, rounds: int, budget_s: float | None, progress: bool) -> None:
    done = store.done()
    start_ns = prober.clock()
    gone = rejected = 0
    with tqdm(
        total=rounds, initial=len(done & set(range(rounds))), desc="link", unit="round",
        disable=None if progress else True,
    ) as bar:  # fmt: skip
        for number in range(rounds):
            if number in done:
                continue
            if budget_s is not None and (prober.clock() - start_ns) * 1e-9 >= budget_s:
                break
            rows = prober.run(number)
            store.add(number, rows)
            bar.update()
            gone = gone + 1 if _is_gone(rows) else 0
            if gone == GONE_ROUNDS:
                raise LinkError(
                    f"link: the agent is gone: {gone} rounds in a row ended with "
                    f"{rows[-1].reason}; see whether it runs, then start again: what was "
                    "measured is kept where --out was given"
                )
            rejected += read_round(number, frame(rows))[0] is None
            if 2 * rejected > rounds:
                break
            if gone:
                prober.clock.sleep(RETRY_S)


def _is_gone(rows: list[Row]) -> bool:
    return rows[-1].reason in GONE


def _conclude(store: Store, asked: LinkOptions, url: str) -> LinkMeasurement:
    rows = store.rows().filter(pl.col("round") < asked.rounds)
    found = estimate(rows, asked.confidence, asked.seed)
    flags = found.flags
    if store.started.get("same_host"):
        flags += (Flag("same_host", "the agent runs on this very host: this is no network"),)
    provenance = {
        "tool": "cr2fast-profiler",
        "version": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "url": url,
        **store.started,
        "ended_utc": _utc(),
        "options": {**asdict(asked), "sizes_bytes": list(asked.sizes_bytes)},
        "rounds": int(rows["round"].n_unique()),
        "probes": len(rows),
        "failed_probes": int(rows["duration_s"].is_null().sum()),
        "sent_bytes": int(rows["sent_bytes"].sum()),
        "received_bytes": int(rows["received_bytes"].sum()),
        "estimator": "weighted median of pairwise slopes; bootstrap over rounds",
    }
    return LinkMeasurement(
        found.samples,
        found.summary,
        found.rtt_source,
        flags,
        {"probes": found.rejected_probes, "rounds": found.rejected_rounds},
        provenance,
    )


def _utc() -> str:
    """Wall-clock time, for the record alone: nothing is measured with it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
