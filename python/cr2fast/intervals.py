"""Exact binomial intervals.

In: counts. Out: Clopper-Pearson bounds: the p at which the observed count sits in a tail of
(1 - level) / 2. Found by bisection on the binomial tail; numpy alone.
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
        Coverage, at least this for any true proportion.

    Returns
    -------
    (float, float)
    """
    if not (0 <= count <= n and n > 0 and 0 < level < 1):
        raise ValueError(f"expected 0 <= count <= n, n > 0, 0 < level < 1, got {count}, {n}, {level}")
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else _solve(count - 1, n, 1 - tail)
    high = 1.0 if count == n else _solve(count, n, tail)
    return low, high


def _solve(k: int, n: int, target: float) -> float:
    """The p with P(X <= k) = target; the probability falls as p grows."""
    x = np.arange(k + 1)
    log_choose = lgamma(n + 1) - _lgamma(x + 1) - _lgamma(n - x + 1)
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        p = (low + high) / 2
        cdf = np.exp(log_choose + x * np.log(p) + (n - x) * np.log1p(-p)).sum()
        low, high = (p, high) if cdf > target else (low, p)
    return (low + high) / 2


def _lgamma(x: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.array([lgamma(v) for v in x.tolist()])
