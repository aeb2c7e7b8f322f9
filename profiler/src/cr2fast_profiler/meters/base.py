"""The one protocol of every meter.

In: a sensor. Out: cumulative joules of each domain with the monotonic clock's time
(``time.perf_counter_ns``), or :class:`Unavailable` with a typed reason and a remedy in words.
A reading that cannot be trusted is NaN, and its reason stands in the meter's faults: no sensor,
no number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
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
        Where the joules come from: "rapl", "pyrapl", "nvml-counter", "nvml-power" (integrated),
        "zeus", "replay", "constant", "agent".
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
    """A time from which, or at which, a domain's joules cannot be trusted."""

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
        """(n,) cumulative joules of the domains that add up; NaN where any of them is."""
        columns = [i for i, d in enumerate(self.domains) if d.in_total]
        return np.asarray(self.joules[:, columns].sum(axis=1))

    def edges(self) -> npt.NDArray[np.int64]:
        """Indices of readings at which the total changed: the counter's own ticks."""
        total = self.total()
        changed = np.flatnonzero(np.diff(total) != 0) + 1
        return np.asarray(changed[np.isfinite(total[changed])], dtype=np.int64)

    def window(self, start_ns: int, end_ns: int) -> Window:
        """Energy of the total between two times, interpolated between the readings around them.

        Invalid, with the reason, where the trace does not cover the window or a reading in it
        cannot be trusted.
        """
        duration = (end_ns - start_ns) * 1e-9
        if len(self.t_ns) < 2 or start_ns < self.t_ns[0] or end_ns > self.t_ns[-1]:
            return Window(None, duration, Reason.NOT_COVERED, "the readings do not cover it")
        first = int(np.searchsorted(self.t_ns, start_ns, side="right")) - 1
        last = int(np.searchsorted(self.t_ns, end_ns, side="left"))
        total = self.total()[first : last + 1]
        if not np.isfinite(total).all():
            low, high = int(self.t_ns[first]), int(self.t_ns[last])
            inside = [f for f in self.faults if low <= f.t_ns <= high]
            fault = inside[0] if inside else None
            reason = fault.reason if fault else Reason.IMPLAUSIBLE
            return Window(None, duration, reason, fault.detail if fault else "untrusted reading")
        times = self.t_ns[first : last + 1].astype(np.float64)
        low_j, high_j = np.interp([start_ns, end_ns], times, total)
        return Window(float(high_j - low_j), duration)
