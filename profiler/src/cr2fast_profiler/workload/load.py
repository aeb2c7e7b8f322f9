"""Loads beside the closed loop: constant, Poisson and concurrent.

In: ``constant:RATE``, ``poisson:RATE`` (requests a second) or ``concurrent:N``. Out: rows of phase
"load". They show how TTFT and ITL suffer under load and feed no fit: the cost model is of one
request alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cr2fast_profiler.clock import SYSTEM, Clock
from cr2fast_profiler.errors import RunError

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
    clock: Clock = SYSTEM,
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
    clock : Clock
        What the arrivals are due on.
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

    crew = clock.crew(width)
    try:
        start_ns = clock()
        for due_s, request in zip(load.arrivals_s(len(requests), rng), requests, strict=True):
            if start_ns + due_s * 1e9 > deadline_ns or clock() > deadline_ns:
                break
            while (left_s := due_s - (clock() - start_ns) * 1e-9) > 0:
                yield from crew.collect(left_s)
            crew.submit(partial(tracked, request))
        while crew.pending:
            yield from crew.collect()
    finally:
        crew.close()
