"""Warm-up and drift: tests on the times of one repeated cell.

In: durations in the order they were measured. Out: whether they still fall (warm-up), and how far
they move over a run (drift).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cr2fast_profiler.fit.observations import Floats

WARM_UP_LOOKBACK = 5
DRIFT_FLAG = 0.05


def still_warming(times_s: Floats) -> bool:
    """Whether the last five times of a repeated request still fall.

    Kendall's rank test, one-sided, at the level .05: among five, at least nine of the ten pairs
    fall. Fewer than five times are not enough to tell, so they are warm-up.

    Parameters
    ----------
    times_s : ndarray of float64, (n,)
        In order.
    """
    last = np.asarray(times_s, float)[-WARM_UP_LOOKBACK:]
    if len(last) < WARM_UP_LOOKBACK:
        return True
    falling = sum(
        last[j] < last[i] for i in range(WARM_UP_LOOKBACK) for j in range(i + 1, WARM_UP_LOOKBACK)
    )
    return bool(falling >= 9)


@dataclass(frozen=True)
class Drift:
    """How the reference cell's time moved from the run's first request to its last.

    Attributes
    ----------
    fraction : float
        Relative change over the run, by a straight line: +.10 is 10 % slower at the end.
    standard_error : float
        Of that.
    flagged : bool
        Over 5 % either way, and over three standard errors.
    """

    fraction: float
    standard_error: float
    flagged: bool


def drift(start_s: Floats, duration_s: Floats, run_span_s: float) -> Drift | None:
    """Drift of the reference cell; None with fewer than four measurements of it.

    Parameters
    ----------
    start_s, duration_s : ndarray of float64, (n,)
        When each reference request was sent, and how long it took.
    run_span_s : float
        From the run's first request to its last.
    """
    n = len(start_s)
    if n < 4 or not run_span_s > 0:
        return None
    x = np.stack([np.ones(n), (start_s - start_s.mean()) / run_span_s], 1)
    y = duration_s / duration_s.mean()
    coefficients, *_ = np.linalg.lstsq(x, y, rcond=None)
    residual = y - x @ coefficients
    variance = float(residual @ residual) / (n - 2) * np.linalg.pinv(x.T @ x)[1, 1]
    error = math.sqrt(max(variance, 0.0))
    fraction = float(coefficients[1])
    return Drift(fraction, error, abs(fraction) > DRIFT_FLAG and abs(fraction) > 3 * error)
