"""Datasheet watts as a meter, always labelled estimated.

In: watts. Out: joules = watts · time since opening.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cr2fast_profiler.meters.base import Domain, Fault, MeterError, Reason, Unavailable


class ConstantMeter:
    """A board that is said to draw constant power.

    Parameters
    ----------
    power_w : float
        Watts, positive.
    clock : callable
        Monotonic ns.

    Raises
    ------
    MeterError
        When the watts are not a positive, finite number.
    """

    def __init__(self, power_w: float, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        if not (math.isfinite(power_w) and power_w > 0):
            detail = f"watts must be positive and finite; got {power_w}"
            raise MeterError(Unavailable("constant", Reason.IMPLAUSIBLE, detail))
        self.power_w = power_w
        self._clock = clock
        self._start_ns = clock()
        self.domains: tuple[Domain, ...] = (
            Domain("constant", "board", "constant", estimated=True),
        )
        self.poll_s = 0.1
        self.faults: list[Fault] = []

    def read(self) -> tuple[int, npt.NDArray[np.float64]]:
        """See :meth:`cr2fast_profiler.meters.base.Meter.read`."""
        t_ns = self._clock()
        return t_ns, np.array([(t_ns - self._start_ns) * 1e-9 * self.power_w])

    def close(self) -> None:
        """Nothing is held."""
