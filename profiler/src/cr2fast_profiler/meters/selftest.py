"""What a meter is worth, by a known load.

In: a meter, a piece of work of some milliseconds, and where there is one the power of the same
sensor. Out: :class:`SelfTest`.

Phases: rest; steady load; load switched on and off at random. The first two give idle and load
watts, the tick, and the ratio of the counter to integrated power. In the third the sensor's k-th
update P_k is explained as a + b f(t_k - lag, w), where f is the fraction of the w seconds before
in which the load was on; the w and lag of least squared error are taken. With updates T apart,
min(w / T, 1) of the time is sampled; w > T is an average over w.
"""

from __future__ import annotations

import importlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cr2fast_profiler.meters.base import Fault, Meter, MeterError, Reason, Trace, Unavailable
from cr2fast_profiler.meters.recorder import Readings

POLL_S = 0.002
"""At most: fine enough for the ticks of any meter here, s."""
SWITCH_S = (0.015, 0.2)
"""Shortest and longest stretch of the random load, s."""
MIN_UPDATES = 20
MIN_R2 = 0.8
"""Below, the load does not explain the sensor's updates, and no sampled fraction is told."""
WORKING = (0.5, 2.0)
"""Ratios of counter to integrated power outside are worth a warning."""


@dataclass(frozen=True)
class SelfTest:
    """Findings; None where they cannot be told.

    Attributes
    ----------
    sources : tuple of str
        "name: source" of each domain.
    tick_s : float or None
        Median time between changes of the slowest domain, s.
    poll_s : float
        Median time between readings, s; a tick near it may be shorter.
    idle_w, load_w : float or None
        Mean power at rest and under load, W.
    counter_to_power : float or None
        Joules of the counter over those of integrated power, under load.
    power_update_s : float or None
        Median time between changes of the power sensor, s.
    sampled_s : float or None
        Length of the power sensor's averaging window, s.
    sampled_fraction : float or None
        Part of the time that it covers.
    stuck : bool
        The counter did not move under load, or a fault says so.
    faults : tuple of Fault
        What the meter reported meanwhile.
    """

    sources: tuple[str, ...]
    tick_s: float | None
    poll_s: float
    idle_w: float | None
    load_w: float | None
    counter_to_power: float | None
    power_update_s: float | None
    sampled_s: float | None
    sampled_fraction: float | None
    stuck: bool
    faults: tuple[Fault, ...] = field(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should keep one from trusting the meter."""
        found = []
        if self.stuck:
            found.append("the counter does not move under load: do not use it")
        ratio = self.counter_to_power
        if ratio is not None and not WORKING[0] <= ratio <= WORKING[1]:
            found.append(f"the counter and integrated power disagree by a factor of {ratio:.2f}")
        if self.idle_w is not None and self.load_w is not None and self.load_w <= self.idle_w:
            found.append("the load does not show: it ran elsewhere, or the sensor is wrong")
        if self.sampled_fraction is not None and self.sampled_fraction < 0.9:
            found.append(
                f"power is sampled {self.sampled_fraction:.0%} of the time: "
                "dither the gaps between requests"
            )
        if self.sampled_s and self.power_update_s and self.sampled_s > 1.5 * self.power_update_s:
            found.append(f"power is an average over {self.sampled_s:.2f} s")
        return (*found, *(f"{f.domain}: {f.reason.value}: {f.detail}" for f in self.faults))

    def report(self) -> str:
        """Lines to print."""
        near = self.tick_s is not None and self.tick_s < 2 * self.poll_s
        rows = [
            ("sensors", ", ".join(self.sources)),
            ("tick", ("at most " if near else "") + _words(self.tick_s, 1e3, "ms")),
            ("idle", _words(self.idle_w, 1, "W")),
            ("load", _words(self.load_w, 1, "W")),
            ("counter / integrated power", _words(self.counter_to_power, 1, "", 3)),
            ("power updates every", _words(self.power_update_s, 1e3, "ms")),
            ("sampled fraction", _words(self.sampled_fraction, 100, "%", 0)),
            ("stuck", "yes" if self.stuck else "no"),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        return "\n".join([*lines, *(f"warning: {w}" for w in self.warnings)])


def _words(value: float | None, scale: float, unit: str, digits: int = 1) -> str:
    return "not known" if value is None else f"{value * scale:.{digits}f} {unit}".rstrip()


def run_selftest(
    meter: Meter,
    work: Callable[[], None],
    power: Callable[[], float | None] | None = None,
    *,
    rest_s: float = 3.0,
    load_s: float = 4.0,
    switching_s: float = 10.0,
    clock: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
    seed: int = 0,
) -> SelfTest:
    """Put a meter through rest, load and switching load.

    Parameters
    ----------
    meter : Meter
        Read by this test alone; not closed.
    work : callable
        Loads what the meter measures for some milliseconds and returns.
    power : callable, optional
        Watts now, or None; the meter's own ``power_w`` where it has one.
    rest_s, load_s, switching_s : float
        Lengths of the phases, s.
    clock : callable
        Monotonic ns.
    sleep : callable
        Waits s.
    seed : int
        Of the random load.
    """
    own = getattr(meter, "power_w", None)
    bench = _Bench(meter, power or (own if callable(own) else None), clock, sleep)
    rest = bench.phase(rest_s, None)
    load = bench.phase(load_s, work)
    dice = random.Random(seed)
    switching_ns = clock()
    end_ns = switching_ns + int(switching_s * 1e9)
    pulses = [load]
    while clock() < end_ns:
        pulses.append(bench.phase(dice.uniform(*SWITCH_S), work))
        bench.phase(dice.uniform(*SWITCH_S), None)
    trace = bench.trace()
    tick_s = trace.tick_s()
    # A tick inside both ends the total holds nothing of the neighbouring phase.
    inset_ns = int(2e9 * min(tick_s or 0.0, load_s / 8, rest_s / 8))
    idle_w = _mean_w(trace, rest[0] + inset_ns, rest[1] - inset_ns)
    load_w = _mean_w(trace, load[0] + inset_ns, load[1] - inset_ns)
    power_w = bench.mean_power_w(load[0] + inset_ns, load[1] - inset_ns)
    update_s, sampled_s = bench.sampling(pulses, switching_ns)
    still = load_w is not None and load_w == 0
    return SelfTest(
        tuple(f"{d.name}: {d.source}" for d in meter.domains),
        tick_s,
        float(np.median(np.diff(bench.times))) * 1e-9,
        idle_w,
        load_w,
        load_w / power_w if load_w is not None and power_w else None,
        update_s,
        sampled_s,
        min(sampled_s / update_s, 1.0) if sampled_s and update_s else None,
        still or any(f.reason is Reason.STUCK for f in trace.faults),
        trace.faults,
    )


class _Bench:
    """Readings of the meter and of power through the phases."""

    def __init__(
        self,
        meter: Meter,
        power: Callable[[], float | None] | None,
        clock: Callable[[], int],
        sleep: Callable[[float], None],
    ) -> None:
        self.meter, self.power, self.clock, self.sleep = meter, power, clock, sleep
        self.readings = Readings(meter.domains)
        self.times: list[int] = []
        self.powers: list[tuple[int, float]] = []
        self.known_faults = len(meter.faults)
        self._take()

    def phase(self, length_s: float, work: Callable[[], None] | None) -> tuple[int, int]:
        """(start, end) ns of a stretch with the load on, or off."""
        start_ns = self.clock()
        while self.clock() < start_ns + length_s * 1e9:
            if work is None:
                self.sleep(min(POLL_S, self.meter.poll_s))
            else:
                work()
            self._take()
        return start_ns, self.clock()

    def trace(self) -> Trace:
        t_ns, joules = self.readings.trace()
        faults = tuple(self.meter.faults[self.known_faults :])
        return Trace(t_ns, joules, self.meter.domains, faults)

    def mean_power_w(self, start_ns: int, end_ns: int) -> float | None:
        """Integrated power over its time, W."""
        inside = [(t, p) for t, p in self.powers if start_ns <= t <= end_ns]
        if len(inside) < 2:
            return None
        t_ns, power_w = np.array(inside, dtype=np.float64).T
        areas = np.diff(t_ns) * (power_w[1:] + power_w[:-1]) / 2
        return float(areas.sum() / (t_ns[-1] - t_ns[0]))

    def sampling(
        self, pulses: list[tuple[int, int]], from_ns: int
    ) -> tuple[float | None, float | None]:
        """(time between updates, averaging window) of the power sensor, s, from a time on."""
        seen = [(t, p) for t, p in self.powers if t >= from_ns]
        updates = np.array([now for before, now in pairwise(seen) if now[1] != before[1]])
        if len(updates) < MIN_UPDATES:
            return None, None
        t_s = (updates[:, 0] - from_ns) * 1e-9
        update_s = float(np.median(np.diff(t_s)))
        on_s = (np.array(pulses, dtype=np.float64) - from_ns) * 1e-9
        return update_s, _boxcar_s(t_s, updates[:, 1], on_s, update_s)

    def _take(self) -> None:
        t_ns, joules = self.meter.read()
        self.readings.append(t_ns, joules)
        self.times.append(t_ns)
        power_w = self.power() if self.power else None
        if power_w is not None:
            self.powers.append((t_ns, power_w))


def _boxcar_s(
    t_s: npt.NDArray[np.float64],
    power_w: npt.NDArray[np.float64],
    on_s: npt.NDArray[np.float64],
    update_s: float,
) -> float | None:
    """Window of the average that explains updates (K,) by pulses (M, 2); None if none does."""
    knots = on_s.ravel()
    busy = np.zeros(len(knots))
    busy[1::2] = on_s[:, 1] - on_s[:, 0]
    busy = np.cumsum(busy)
    spread = float(((power_w - power_w.mean()) ** 2).sum())
    best, least = None, (1 - MIN_R2) * spread
    parts = np.concatenate([np.arange(0.05, 1.01, 0.05), np.arange(1.25, 4.1, 0.25)])
    for window_s in [*(parts * update_s), 0.5, 1.0, 2.0]:
        for lag_s in np.arange(0, 1.01, 0.1) * update_s:
            end = t_s - lag_s
            duty = (np.interp(end, knots, busy) - np.interp(end - window_s, knots, busy)) / window_s
            basis = np.column_stack([np.ones_like(duty), duty])
            rest = power_w - basis @ np.linalg.lstsq(basis, power_w, rcond=None)[0]
            error = float(rest @ rest)
            if error < least:
                best, least = float(window_s), error
    return best


def _mean_w(trace: Trace, start_ns: int, end_ns: int) -> float | None:
    window = trace.window(start_ns, end_ns)
    return None if window.energy_j is None else window.energy_j / window.duration_s


def cpu_work() -> Callable[[], None]:
    """Work of some milliseconds for the CPU: matrix products."""
    matrix = np.random.default_rng(0).standard_normal((384, 384))

    def work() -> None:
        np.matmul(matrix, matrix)

    return work


def gpu_work() -> Callable[[], None]:
    """Work of some milliseconds for CUDA's current GPU: matrix products by PyTorch.

    Raises
    ------
    MeterError
        When PyTorch or a GPU it can use is missing.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        why = Unavailable("selftest", Reason.MISSING_PACKAGE, f"{error}", "pip install torch")
        raise MeterError(why) from None
    if not torch.cuda.is_available():
        raise MeterError(
            Unavailable("selftest", Reason.NOT_PRESENT, "PyTorch sees no GPU", "see `nvidia-smi`")
        )
    matrix = torch.ones((4096, 4096), device="cuda", dtype=torch.float16)

    def work() -> None:
        torch.matmul(matrix, matrix)
        torch.cuda.synchronize()

    return work
