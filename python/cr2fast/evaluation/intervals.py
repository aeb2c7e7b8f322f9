"""Exact intervals and tests for counts, which need only numpy.

In: counts. Out: Clopper-Pearson bounds of a proportion, found by bisection on the binomial tail;
the tail of the beta-binomial law that the test count of a calibrated threshold follows.
"""

from __future__ import annotations

from functools import lru_cache
from math import lgamma

import numpy as np
import numpy.typing as npt

_STEPS = 60


@lru_cache(maxsize=4096)
def binomial_interval(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval for a proportion.

    Parameters
    ----------
    count : int
        Successes, 0 to n.
    n : int
        Trials, at least 1.
    level : float
        Least coverage, for any true proportion.

    Returns
    -------
    (float, float)
    """
    if not (0 <= count <= n and n > 0 and 0 < level < 1):
        raise ValueError(
            f"expected 0 <= count <= n, n > 0, 0 < level < 1, got {count}, {n}, {level}"
        )
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else _solve(count - 1, n, 1 - tail)
    high = 1.0 if count == n else _solve(count, n, tail)
    return low, high


@lru_cache(maxsize=4096)
def risk_tail(count: int, n: int, allowed: int, n_calibration: int) -> float:
    """Probability of at least `count` false acceptances among `n` test queries.

    With continuous margins, the risk of a threshold that allows k false acceptances among N
    calibration samples is Beta(k + 1, N - k) distributed over calibration sets, so the test count
    is beta-binomial. A binomial interval of the test count leaves out that the calibration set was
    drawn at random, too.

    Parameters
    ----------
    count, n : int
        False acceptances among test queries.
    allowed, n_calibration : int
        k and N.
    """
    a, b = allowed + 1, n_calibration - allowed
    x = np.arange(count)
    log_pmf = (
        lgamma(n + 1) - log_gamma(x + 1) - log_gamma(n - x + 1)
        + log_gamma(x + a) + log_gamma(n - x + b) - lgamma(n + a + b)
        + lgamma(a + b) - lgamma(a) - lgamma(b)
    )  # fmt: skip
    return float(max(0.0, 1 - np.exp(log_pmf).sum()))


def _solve(k: int, n: int, target: float) -> float:
    """Find the p with P(X <= k) = target, by bisection: the probability falls as p grows."""
    x = np.arange(k + 1)
    log_choose = lgamma(n + 1) - log_gamma(x + 1) - log_gamma(n - x + 1)
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        p = (low + high) / 2
        cdf = np.exp(log_choose + x * np.log(p) + (n - x) * np.log1p(-p)).sum()
        low, high = (p, high) if cdf > target else (low, p)
    return (low + high) / 2


def log_gamma(x: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The logarithm of the gamma function, element by element."""
    return np.array([lgamma(v) for v in x.tolist()])
