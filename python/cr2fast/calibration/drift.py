"""Say when live queries no longer look like the calibration set.

In: margins of live queries at one cost weight, and order statistics of the calibration margins.
Out: :class:`DriftReport`, with a p-value. The promise of a threshold holds for queries exchangeable
with the calibration set, and this test of it needs no answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import check_unmasked, real, shown

_DRAWS = 9999
_LEAST_LEVEL = 0.001


@dataclass(frozen=True)
class DriftReport:
    """What a check for drift found.

    Attributes
    ----------
    drifted : bool
        Whether ``p_value <= level``.
    p_value : float
        If nothing drifted, the probability that the p-value is at most `level` is at most `level`,
        up to the error of the simulation behind it. The probability is over calibration sets and
        live queries together; several checks against the same calibration set are dependent, and
        their false alarms tend to come together.
    statistic : float
        Largest distance between the two distribution functions, in [0, 1].
    margin : float
        Margin at which they are that far apart.
    live, expected : float
        Fraction of live queries and of the calibration set up to that margin.
    n, n_calibration : int
        Live queries, and calibration samples N.
    lam, level : float
        Cost weight, and the false-alarm rate of one check.
    """

    drifted: bool
    p_value: float
    statistic: float
    margin: float
    live: float
    expected: float
    n: int
    n_calibration: int
    lam: float
    level: float

    def __bool__(self) -> bool:
        """Whether it drifted: ``if router.check_drift(...)`` reads as it is written."""
        return self.drifted

    def __str__(self) -> str:
        word = "drift" if self.drifted else "no drift found"
        return (
            f"{word} at lam={self.lam:g}: {self.live:.3f} of {self.n} live queries have a margin "
            f"up to {self.margin:.3g}, {self.expected:.3f} of the calibration set "
            f"(p = {self.p_value:.4f}, false-alarm rate of one check {self.level:g})"
        )


def ranks(n: int, q: int) -> npt.NDArray[np.int64]:
    """Which `q` order statistics of `n` margins a calibration keeps: their ranks (Q,), from 1."""
    return np.rint(np.arange(1, q + 1) * (n + 1) / (q + 1)).astype(np.int64)


def check(
    live: npt.ArrayLike, quantiles: npt.NDArray[np.float32], n: int, lam: float, level: float
) -> DriftReport:
    """Compare live margins with the kept order statistics of N calibration margins.

    This is a two-sample Kolmogorov-Smirnov test at the kept points. For independent queries with
    continuous margins, the law of its statistic without drift depends only on the two sample sizes,
    so it is simulated once for each pair of sizes. Ties make a false alarm less likely.

    Parameters
    ----------
    live : array_like, (n,)
        Margins.
    quantiles : ndarray of float32, (Q,)
        What a calibration kept, at one cost weight.
    n : int
        Calibration samples N.
    lam, level : float
        As in :class:`DriftReport`.
    """
    try:
        x = np.asarray(live, dtype=np.float64)
    except (TypeError, ValueError):
        raise Cr2Error(f"margins: expected a list of numbers, got {shown(live)}") from None
    if x.ndim != 1 or not x.size or not np.isfinite(x).all():
        raise Cr2Error(
            f"margins: expected a non-empty list of finite numbers, got shape {x.shape}"
            + ("" if x.ndim != 1 or not x.size else " with NaN or infinity in it")
        )
    check_unmasked(live, "margins")
    level = real(level, "level", f"a number from {_LEAST_LEVEL} to below 1")
    if not _LEAST_LEVEL <= level < 1:
        raise Cr2Error(
            f"level: expected a number from {_LEAST_LEVEL} to below 1, got {shown(level)}"
        )
    r, x = ranks(n, len(quantiles)), np.sort(x)
    expected = r / (n + 1)
    below = np.searchsorted(x, quantiles, "left") / x.size
    upto = np.searchsorted(x, quantiles, "right") / x.size
    gap = np.maximum(np.maximum(below - expected, expected - upto), 0)
    at = int(gap.argmax())
    p = (1 + (_null(x.size, n, r.size) >= gap[at] - 1e-12).sum()) / (_DRAWS + 1)
    return DriftReport(
        drifted=bool(p <= level),
        p_value=float(p),
        statistic=float(gap[at]),
        margin=float(quantiles[at]),
        live=float(below[at] if below[at] > expected[at] else upto[at]),
        expected=float(expected[at]),
        n=x.size,
        n_calibration=n,
        lam=lam,
        level=level,
    )


@lru_cache(maxsize=32)
def _null(live: int, n: int, q: int) -> npt.NDArray[np.float64]:
    """Statistics (_DRAWS,) of `live` and `n` simulated draws from one continuous distribution."""
    rng = np.random.default_rng(0)
    r = ranks(n, q)
    # Spacings of uniform order statistics are gamma variables over their sum.
    steps = np.diff(np.concatenate(([0], r, [n + 1])))
    spacings = rng.standard_gamma(steps, size=(_DRAWS, steps.size))
    spacings /= spacings.sum(axis=1, keepdims=True)
    counts = rng.multinomial(live, spacings)[:, :-1].cumsum(axis=1)
    null: npt.NDArray[np.float64] = np.abs(counts / live - r / (n + 1)).max(axis=1)
    return null
