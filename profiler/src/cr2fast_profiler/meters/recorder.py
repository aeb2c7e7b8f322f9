"""Reads a meter in the background and keeps what it read.

In: a meter. Out: :class:`~cr2fast_profiler.meters.base.Trace`.

Of readings that repeat each other only the first and the last are kept: interpolation between
the kept ones is the same, and memory grows with the counter's ticks, not with the polls.
"""

from __future__ import annotations

import threading
from array import array
from types import TracebackType

import numpy as np
import numpy.typing as npt

from cr2fast_profiler.clock import SYSTEM, Clock, Ticker
from cr2fast_profiler.errors import RunError
from cr2fast_profiler.meters.base import Domain, Meter, Trace

MAX_MARGIN_S = 0.5


class Readings:
    """Readings of D domains, without the inner ones of a flat stretch.

    Parameters
    ----------
    domains : tuple of Domain
        (D,) columns.
    """

    def __init__(self, domains: tuple[Domain, ...]) -> None:
        self.domains = domains
        self._t_ns = array("q")
        self._joules = array("d")
        self._last: tuple[int, npt.NDArray[np.float64]] | None = None
        self._latest: tuple[int, npt.NDArray[np.float64]] | None = None

    def __len__(self) -> int:
        return len(self._t_ns) + (self._latest is not None)

    def append(self, t_ns: int, joules: npt.NDArray[np.float64]) -> None:
        """Add a reading: its time, later than the last, and (D,) cumulative joules."""
        if self._last is not None and np.array_equal(joules, self._last[1], equal_nan=True):
            self._latest = (t_ns, joules)
            return
        self.flush()
        self._keep(t_ns, joules)

    def flush(self) -> None:
        """Keep the latest reading for good."""
        if self._latest is not None:
            self._keep(*self._latest)

    def trace(self, first: int = 0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """(t_ns, joules), (n,) and (n, D), from the kept reading ``first`` on."""
        self.flush()
        joules = np.array(self._joules, dtype=np.float64).reshape(-1, len(self.domains))
        return np.array(self._t_ns, dtype=np.int64)[first:], joules[first:]

    def _keep(self, t_ns: int, joules: npt.NDArray[np.float64]) -> None:
        self._t_ns.append(t_ns)
        self._joules.extend(joules.tolist())
        self._last, self._latest = (t_ns, joules), None


class Recorder:
    """Polls a meter beside whatever else runs, every ``meter.poll_s``.

    Parameters
    ----------
    meter : Meter
        Read by this recorder alone from ``start`` to ``stop``; not closed by it.
    clock : Clock
        What the polls are paced by: the meter's own.
    """

    def __init__(self, meter: Meter, clock: Clock = SYSTEM) -> None:
        self.meter, self.clock = meter, clock
        self._readings = Readings(meter.domains)
        self._drained = 0
        self._drained_faults = 0
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._ticker: Ticker | None = None
        self._going = False

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()
        if kind is None:
            self._check()

    def start(self) -> None:
        """Take a first reading and begin.

        Raises
        ------
        RunError
            When it runs, or ran, already.
        """
        if self._ticker is not None:
            raise RunError("a recorder starts once; make another for another recording")
        self._readings.append(*self.meter.read())
        self._going = True
        self._ticker = self.clock.every(self.meter.poll_s, self._take)

    def drain(self) -> Trace:
        """Readings and faults since the last drain, to be written as they come.

        Raises
        ------
        RunError
            When reading the meter failed.
        """
        self._check()
        with self._lock:
            t_ns, joules = self._readings.trace(self._drained)
            self._drained += len(t_ns)
            faults = tuple(self.meter.faults[self._drained_faults :])
            self._drained_faults += len(faults)
        return Trace(t_ns, joules, self.meter.domains, faults)

    def snapshot(self) -> Trace:
        """All readings and faults so far; raises as :meth:`drain`."""
        self._check()
        with self._lock:
            t_ns, joules = self._readings.trace()
            return Trace(t_ns, joules, self.meter.domains, tuple(self.meter.faults))

    def stop(self, margin_s: float | None = None) -> Trace:
        """End and return all readings; raises as :meth:`drain`.

        Parameters
        ----------
        margin_s : float, optional
            How long to read on first, s, so that a slow counter's next tick closes the last
            window. By default one and a half of the slowest domain's ticks, at most 0.5 s.
        """
        if margin_s is None:
            margin_s = min(1.5 * (self.snapshot().tick_s() or 0.0), MAX_MARGIN_S)
        if self._going:
            self.clock.sleep(margin_s)
        self._end()
        return self.snapshot()

    def _end(self) -> None:
        if self._ticker is not None:
            self._ticker.stop()
        if self._going:
            self._going = False
            self._take()

    def _take(self) -> None:
        if self._error is not None:
            return
        try:
            # Outside the lock: a meter that is slow to answer must not hold up who drains.
            t_ns, joules = self.meter.read()
        except BaseException as error:
            self._error = error
            return
        with self._lock:
            self._readings.append(t_ns, joules)

    def _check(self) -> None:
        if self._error is not None:
            raise RunError(f"reading the meter failed: {self._error!r}") from self._error
