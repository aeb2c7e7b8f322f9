"""From raw counter or power readings to cumulative joules that can be trusted.

In: (t_ns, raw) of one domain. Out: joules since the first reading, or NaN and a
:class:`~cr2fast_profiler.meters.base.Fault`.

Counter: between readings Δt apart, ΔE = raw - last, plus the range R when negative. Believed when
Δt < R / P_max (no second wrap could hide in it) and ΔE <= P_max (Δt + slack). After a fault
counting goes on from the new raw value, so that only windows across it are invalid.

Power: ΔE = Δt (P_last + P) / 2, while Δt stays short.
"""

from __future__ import annotations

import math

from cr2fast_profiler.meters.base import Fault, Reason

SLACK_S = 0.2
"""A slow counter hands out up to this much of the past in one step, s."""


class _Sum:
    """Joules of one domain so far, its last reading, and whether that one failed."""

    def __init__(self, domain: str) -> None:
        self.domain = domain
        self._total_j = 0.0
        self._last: tuple[int, float] | None = None
        self._lost = False

    def lose(
        self, t_ns: int, detail: str, reason: Reason = Reason.LOST
    ) -> tuple[float, Fault | None]:
        """(NaN, why) for a reading that failed; one fault an outage. Counting restarts after it."""
        known, self._lost, self._last = self._lost, True, None
        return math.nan, None if known else Fault(t_ns, self.domain, reason, detail)


class Counter(_Sum):
    """Unwraps and judges one cumulative counter.

    Parameters
    ----------
    domain : str
        Its name, for the faults.
    range_j : float or None
        Where it wraps, J; None when that cannot be read: then any decrease is a fault.
    max_power_w : float
        More than the domain can draw, W.
    decrease : Reason
        What a decrease means where there is no range.
    """

    def __init__(
        self,
        domain: str,
        range_j: float | None,
        max_power_w: float,
        decrease: Reason = Reason.NO_RANGE,
    ) -> None:
        super().__init__(domain)
        self.range_j = range_j
        self.max_power_w = max_power_w
        self._decrease = decrease

    def update(self, t_ns: int, raw_j: float) -> tuple[float, Fault | None]:
        """(joules since the first reading, None), or (NaN, why)."""
        last, self._last, self._lost = self._last, (t_ns, raw_j), False
        if last is None:
            return self._total_j, None
        elapsed_s = (t_ns - last[0]) * 1e-9
        delta_j = raw_j - last[1]
        limit_j = self.max_power_w * (elapsed_s + SLACK_S)
        if self.range_j is not None and elapsed_s > self.range_j / self.max_power_w:
            return self._fault(
                t_ns,
                Reason.NOT_COVERED,
                f"read after {elapsed_s:.1f} s, in which the counter could wrap more than once; "
                "read it at least every poll_s",
            )
        if delta_j < 0:
            if self.range_j is None:
                return self._fault(
                    t_ns,
                    self._decrease,
                    f"fell from {last[1]:.3f} J to {raw_j:.3f} J and has no known range to wrap at",
                )
            delta_j += self.range_j
            if delta_j > limit_j or delta_j < 0:
                return self._fault(
                    t_ns,
                    Reason.RESET,
                    f"fell from {last[1]:.3f} J to {raw_j:.3f} J: as a wrap that were "
                    f"{delta_j / elapsed_s if elapsed_s else math.inf:.0f} W, more than "
                    f"{self.max_power_w:.0f} W; a reset or a suspend",
                )
        elif delta_j > limit_j:
            return self._fault(
                t_ns,
                Reason.IMPLAUSIBLE,
                f"rose by {delta_j:.3f} J in {elapsed_s:.3f} s, more than {self.max_power_w:.0f} W",
            )
        self._total_j += delta_j
        return self._total_j, None

    def restart(self) -> None:
        """Count on from the next reading, whatever it is."""
        self._last = None

    def _fault(self, t_ns: int, reason: Reason, detail: str) -> tuple[float, Fault]:
        return math.nan, Fault(t_ns, self.domain, reason, detail)


class PowerIntegral(_Sum):
    """Trapezoid over power readings.

    Parameters
    ----------
    domain : str
        Its name, for the faults.
    max_gap_s : float
        Readings further apart say nothing of what lies between, s.
    """

    def __init__(self, domain: str, max_gap_s: float = 1.0) -> None:
        super().__init__(domain)
        self.max_gap_s = max_gap_s

    def update(self, t_ns: int, power_w: float) -> tuple[float, Fault | None]:
        """(joules since the first reading, None), or (NaN, why)."""
        last, self._last, self._lost = self._last, (t_ns, power_w), False
        if last is None:
            return self._total_j, None
        elapsed_s = (t_ns - last[0]) * 1e-9
        if elapsed_s > self.max_gap_s:
            detail = (
                f"power read after {elapsed_s:.2f} s; at most {self.max_gap_s} s can be bridged"
            )
            return math.nan, Fault(t_ns, self.domain, Reason.NOT_COVERED, detail)
        self._total_j += elapsed_s * (last[1] + power_w) / 2
        return self._total_j, None
