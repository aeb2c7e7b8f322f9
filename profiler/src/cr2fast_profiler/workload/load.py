"""Loads beside the closed loop: constant, Poisson and concurrent.

In: ``constant:RATE``, ``poisson:RATE`` (requests a second) or ``concurrent:N``. Out: rows of phase
"load". They show how TTFT and ITL suffer under load and feed no fit: the cost model is of one
request alone.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np

from cr2fast_profiler.errors import RunError
from cr2fast_profiler.workload.exchange import Clock

MOST_IN_FLIGHT = 64
Row = dict[str, Any]


@dataclass(frozen=True)
class Load:
    """One load.

    Attributes
    ----------
    kind : str
        "constant", "poisson" or "concurrent".
    value : float
        Requests a second; requests at a time.
    """

    kind: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Load:
        """From ``poisson:0.5``."""
        kind, _, value = text.partition(":")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        whole = kind != "concurrent" or number == round(number)
        if kind not in ("constant", "poisson", "concurrent") or not number > 0 or not whole:
            raise RunError(
                "load: expected constant:RATE, poisson:RATE (requests a second) or concurrent:N, "
                f"got {text!r}"
            )
        if not math.isfinite(number) or (kind == "concurrent" and number > MOST_IN_FLIGHT):
            raise RunError(f"load: {text!r}: at most {MOST_IN_FLIGHT} requests at a time")
        return cls(kind, number)

    def __str__(self) -> str:
        return f"{self.kind}:{self.value:g}"

    @property
    def n_requests(self) -> int:
        """Requests of a run of it: a concurrent one must fill its width."""
        return 3 * max(8, int(self.value)) if self.kind == "concurrent" else 24

    def arrivals_s(self, n: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
        """When each of `n` requests is due, s from the start; zeros for a concurrent load."""
        if self.kind == "concurrent":
            return np.zeros(n)
        gaps = np.full(n, 1.0) if self.kind == "constant" else rng.exponential(1.0, n)
        return np.asarray(np.cumsum(gaps) / self.value)


def run_load(
    load: Load,
    requests: list[Callable[[], Row]],
    rng: np.random.Generator,
    deadline_ns: int,
    clock: Clock = time.perf_counter_ns,
) -> Iterator[Row]:
    """Send requests as the load says, none after the deadline; yield their rows as they finish.

    Parameters
    ----------
    load : Load
        When to send.
    requests : list of callables
        Each asks once and gives its row.
    rng : Generator
        Of the arrivals.
    deadline_ns : int
        On the clock.
    clock : callable
        Nanoseconds, monotonic.
    """
    width = int(load.value) if load.kind == "concurrent" else MOST_IN_FLIGHT
    in_flight, lock = 0, threading.Lock()

    def tracked(request: Callable[[], Row]) -> Row:
        nonlocal in_flight
        with lock:
            in_flight += 1
            at_start = in_flight
        try:
            return request() | {"in_flight": at_start, "load": str(load)}
        finally:
            with lock:
                in_flight -= 1

    pool = ThreadPoolExecutor(width)
    pending: set[Future[Row]] = set()
    try:
        start_ns = clock()
        for due_s, request in zip(load.arrivals_s(len(requests), rng), requests, strict=True):
            if start_ns + due_s * 1e9 > deadline_ns or clock() > deadline_ns:
                break
            while (left_s := due_s - (clock() - start_ns) * 1e-9) > 0:
                done, pending = _some(pending, left_s)
                yield from done
            pending.add(pool.submit(tracked, request))
        while pending:
            done, pending = _some(pending, None)
            yield from done
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _some(pending: set[Future[Row]], timeout_s: float | None) -> tuple[list[Row], set[Future[Row]]]:
    if not pending:
        time.sleep(min(timeout_s or 0.0, 0.05))
        return [], pending
    done, rest = wait(pending, timeout=timeout_s, return_when=FIRST_COMPLETED)
    return [f.result() for f in done], rest
