"""The one protocol of every meter.

In: a sensor. Out: cumulative joules of each domain with the monotonic clock's time
(``time.perf_counter_ns``), or :class:`Unavailable` with a typed reason and a remedy in words.
A reading that cannot be trusted is NaN, and its reason stands in the meter's faults: no sensor,
no number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cr2fast_profiler.errors import ProfilerError


class Reason(str, Enum):
    """Why a sensor, or a window of it, gives no energy."""

    NOT_PRESENT = "not_present"
    NO_DRIVER = "no_driver"
    NOT_SUPPORTED = "not_supported"
    PERMISSION = "permission"
    NO_RANGE = "no_range"
    IMPLAUSIBLE = "implausible"
    RESET = "reset"
    STUCK = "stuck"
    LOST = "lost"
    NOT_COVERED = "not_covered"
    REMOTE = "remote"
    MISSING_PACKAGE = "missing_package"


@dataclass(frozen=True)
class Unavailable:
    """A sensor that is not here.

    Attributes
    ----------
    source : str
        "rapl", "nvml", "zeus", ...
    reason : Reason
        Why.
    detail : str
        What was found, in words.
    remedy : str
        What to do about it, in words; empty when nothing can be done.
    """

    source: str
    reason: Reason
    detail: str
    remedy: str = ""


class MeterError(ProfilerError):
    """A meter was asked for and cannot be had."""

    def __init__(self, unavailable: Unavailable) -> None:
        u = unavailable
        super().__init__(f"{u.source}: {u.detail}" + (f"; {u.remedy}" if u.remedy else ""))
        self.unavailable = unavailable


@dataclass(frozen=True)
class Domain:
    """What one column of a meter counts.

    Attributes
    ----------
    name : str
        Unique in its meter: "package-0", "dram-0", "psys", "gpu-0", "vdd_in".
    kind : str
        "cpu", "dram", "gpu", "board" or "psys".
    source : str
        Where the joules come from: "rapl", "pyrapl", "nvml-counter", "nvml-power" (instant power,
        integrated), "nvml-power-average" (a 1 s average, integrated), "zeus", "replay",
        "constant", "agent".
    in_total : bool
        Whether it adds to the meter's total; False for what another domain contains (psys).
    estimated : bool
        True for datasheet watts; such joules are never called measured.
    """

    name: str
    kind: str
    source: str
    in_total: bool = True
    estimated: bool = False


@dataclass(frozen=True)
class Fault:
    """A time from which, or at which, a domain's joules cannot be trusted.

    Attributes
    ----------
    t_ns : int
        The NaN reading's time; earlier where the trouble began before it could be told (a stuck
        counter): then every reading after it, up to the next NaN, is untrusted too.
    domain : str
        The domain's name.
    reason : Reason
        Why.
    detail : str
        The same in words.
    """

    t_ns: int
    domain: str
    reason: Reason
    detail: str


class Meter(Protocol):
    """A source of cumulative joules."""

    domains: tuple[Domain, ...]
    poll_s: float
    """How often to read, s: often enough for ticks and for four readings a wrap."""
    faults: list[Fault]

    def read(self) -> tuple[int, npt.NDArray[np.float64]]:
        """(t_ns, joules): the clock at the reading, and (D,) cumulative joules.

        Joules count from when the meter was opened, unwrapped; NaN where this reading cannot be
        trusted (a fault says why).
        """
        ...

    def close(self) -> None:
        """Release the sensor."""
        ...


@dataclass(frozen=True)
class Window:
    """Energy between two times.

    Attributes
    ----------
    energy_j : float or None
        Joules of the meter's total; None when invalid.
    duration_s : float
        Its length.
    reason : Reason or None
        Why it is invalid.
    detail : str
        The same in words.
    """

    energy_j: float | None
    duration_s: float
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, eq=False)
class Trace:
    """What a meter read over time.

    Attributes
    ----------
    t_ns : ndarray of int64, (n,)
        Increasing times.
    joules : ndarray of float64, (n, D)
        Cumulative; NaN where invalid.
    domains : tuple of Domain
        (D,) columns.
    faults : tuple of Fault
        Reasons of the NaN.
    """

    t_ns: npt.NDArray[np.int64]
    joules: npt.NDArray[np.float64]
    domains: tuple[Domain, ...]
    faults: tuple[Fault, ...] = field(default=())

    def total(self) -> npt.NDArray[np.float64]:
        """(n,) cumulative joules of the domains that add up; NaN where any of them is.

        All NaN where no domain adds up: no sensor, no number.
        """
        if not self._columns:
            return np.full(len(self.t_ns), np.nan)
        return np.asarray(self._trusted[:, self._columns].sum(axis=1))

    def edges(self) -> npt.NDArray[np.int64]:
        """Indices of readings at which the total changed: the counter's own ticks."""
        steps = np.diff(self.total())
        return np.asarray(np.flatnonzero(np.isfinite(steps) & (steps != 0)) + 1, dtype=np.int64)

    def tick_s(self) -> float | None:
        """Median time between changes of the slowest totalled domain, s.

        None where none changed twice. Readings resolve it: a tick near the time between them may be
        shorter.
        """
        ticks = []
        for column in self._columns:
            steps = np.diff(self._trusted[:, column])
            edges = self.t_ns[1:][np.isfinite(steps) & (steps != 0)]
            if len(edges) > 1:
                ticks.append(float(np.median(np.diff(edges))) * 1e-9)
        return max(ticks, default=None)

    def window(self, start_ns: int, end_ns: int) -> Window:
        """Energy of the total between two times, each domain interpolated between its ticks.

        Invalid, with the reason, where the trace does not cover the window or a reading in it
        cannot be trusted. A counter that ticks slower than it is read is a staircase: it is
        interpolated between the ticks around ``start_ns`` and ``end_ns``, so the trace should
        reach a tick beyond both.
        """
        duration = (end_ns - start_ns) * 1e-9
        if end_ns < start_ns:
            raise ValueError(f"a window must not end before it starts; got {duration} s")
        if not self._columns:
            return Window(None, duration, Reason.NOT_PRESENT, "no domain adds to the total")
        if len(self.t_ns) < 2 or start_ns < self.t_ns[0] or end_ns > self.t_ns[-1]:
            return Window(None, duration, Reason.NOT_COVERED, "the readings do not cover it")
        first = int(np.searchsorted(self.t_ns, start_ns, side="right")) - 1
        last = int(np.searchsorted(self.t_ns, end_ns, side="left"))
        energy = 0.0
        for column in self._columns:
            if not np.isfinite(self._trusted[first : last + 1, column]).all():
                return self._invalid(column, int(self.t_ns[last]), duration)
            times, joules = self._anchors[column]
            low, high = np.interp([start_ns - self.t_ns[0], end_ns - self.t_ns[0]], times, joules)
            energy += float(high - low)
        return Window(energy, duration)

    def _invalid(self, column: int, high_ns: int, duration_s: float) -> Window:
        """Name the latest fault of a column, up to the end of the window."""
        name = self.domains[column].name
        faults = [f for f in self.faults if f.domain == name and f.t_ns <= high_ns]
        if not faults:
            return Window(None, duration_s, Reason.IMPLAUSIBLE, f"{name}: untrusted reading")
        fault = max(faults, key=lambda f: f.t_ns)
        return Window(None, duration_s, fault.reason, f"{name}: {fault.detail}")

    @cached_property
    def _columns(self) -> list[int]:
        return [i for i, d in enumerate(self.domains) if d.in_total]

    @cached_property
    def _trusted(self) -> npt.NDArray[np.float64]:
        """(n, D) joules, NaN too between a fault and the reading at which it was found."""
        joules = self.joules.copy()
        names = [d.name for d in self.domains]
        for fault in self.faults:
            if fault.domain not in names:
                continue
            column = names.index(fault.domain)
            after = int(np.searchsorted(self.t_ns, fault.t_ns, side="right"))
            found = np.flatnonzero(np.isnan(self.joules[after:, column]))
            at_fault = after > 0 and np.isnan(self.joules[after - 1, column])
            if len(found) and not at_fault:
                joules[after : after + int(found[0]), column] = np.nan
        return joules

    @cached_property
    def _anchors(self) -> dict[int, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        """Points (ns since the first reading, joules) of each totalled domain."""
        times = (self.t_ns - self.t_ns[0]).astype(np.float64)
        return {c: _anchor(times, self._trusted[:, c]) for c in self._columns}


SLOWEST_TICK = 2.5
"""A flat stretch longer than this many ticks is no quantisation: nothing was used in it."""


def _anchor(
    times: npt.NDArray[np.float64], joules: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Times and joules of a counter at its own ticks, from readings (n,) of a staircase.

    A tick at reading i after a flat stretch fell between readings i-1 and i: it is put in the
    middle. Where the counter changes at every reading, the readings stand as they are; so do both
    ends of a stretch that is flat for many ticks, both ends of the trace, and readings beside NaN.
    """
    n = len(times)
    steps = np.diff(joules)
    changed = np.concatenate([[False], np.isfinite(steps) & (steps != 0)])
    fixed = np.isnan(joules)
    fixed[1:] |= np.isnan(joules[:-1])
    fixed[:-1] |= np.isnan(joules[1:])
    fixed[[0, -1]] = True
    edges = np.flatnonzero(changed)
    if len(edges) < 3:
        return times, joules
    tick = float(np.median(np.diff(times[edges])))
    stops = np.flatnonzero(changed | fixed)
    previous = np.full(n, -1)
    previous[stops[1:]] = stops[:-1]
    ticked = changed & ~fixed & (np.arange(n) - previous > 1)
    ticked[ticked] = times[ticked] - times[previous[ticked]] <= SLOWEST_TICK * tick
    keep = changed | fixed
    keep[np.flatnonzero(changed & ~ticked) - 1] = True
    moved = times.copy()
    at = np.flatnonzero(ticked)
    moved[at] = (times[at - 1] + times[at]) / 2
    return moved[keep], joules[keep]
