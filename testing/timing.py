"""Interleaved timing: contenders take turns, so that a noisy moment hits all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Time(NamedTuple):
    """Seconds per call: the median of many turns, and the least, which a busy machine moves less."""

    median: float
    least: float

    @classmethod
    def of(cls, turns: Sequence[float]) -> Time:
        return cls(statistics.median(turns), min(turns))

    def scaled(self, by: float) -> Time:
        return Time(self.median * by, self.least * by)


def compare(
    contenders: dict[str, Callable[[], object]], *, seconds: float = 1.0, rounds: int = 45
) -> dict[str, Time]:
    """Times of each over `rounds` turns of about seconds/rounds, one call at least."""
    repeats = {}
    for name, call in contenders.items():
        call()
        start = time.perf_counter()
        call()
        once = max(time.perf_counter() - start, 1e-7)
        repeats[name] = max(1, int(seconds / rounds / once))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            n = repeats[name]
            start = time.perf_counter()
            for _ in range(n):
                call()
            times[name].append((time.perf_counter() - start) / n)
    return {name: Time.of(turns) for name, turns in times.items()}


def unit(seconds: float) -> str:
    """A time in the unit a person would choose."""
    for scale, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {name}"
    return f"{seconds / 1e-9:.3g} ns"
