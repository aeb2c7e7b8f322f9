"""What answers seen of some queries only say about all of them.

In: outcomes of the queries that were looked at, and with which probability each query was looked at
(its propensity), fixed before the outcome was known: a shadow's pi, or 1 for an answer that was
served. Out: :class:`Estimate`, the mean outcome over all queries with an interval; losses and
weights for :class:`cr2fast.RiskAlarm`.

Horvitz & Thompson 1952 weigh what was seen by 1/pi; Hajek's ratio normalises the weights; the
doubly robust form (Dudik, Langford & Li, ICML 2011) weighs only what a prediction leaves over. A
risk is watched at every moment by ``RiskAlarm`` with :func:`alarm_inputs`, after Xu,
Karampatziakis & Mineiro (arXiv 2406.10490) and Waudby-Smith, Wu, Ramdas, Karampatziakis & Mineiro
(arXiv 2210.10768). Units: those of the outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import check_choice, check_unmasked, fraction, shown

Method = Literal["ips", "self-normalised", "doubly-robust"]
# The least propensity: one over the largest weight that an alarm takes.
_LEAST = 1e-6


@dataclass(frozen=True)
class Estimate:
    """A mean over all queries, from those that were looked at.

    Attributes
    ----------
    value : float
    low, high : float
        An interval that covers the mean of the queries' distribution in a fraction `level` of
        logs, for large logs; the tests say how closely for small ones. It is an interval for one
        look, not for every moment: for that there is :class:`cr2fast.RiskAlarm`.
    level : float
    method : {"ips", "self-normalised", "doubly-robust"}
    n, seen : int
        Queries, and those looked at.
    effective_n : float
        Queries that, looked at alike, would say as much: (sum w)^2 / sum w^2, w = 1/propensity.
    """

    value: float
    low: float
    high: float
    level: float
    method: str
    n: int
    seen: int
    effective_n: float

    def __str__(self) -> str:
        return (
            f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}] ({self.level:.0%}, {self.method}, "
            f"{self.seen} of {self.n} queries seen, worth {self.effective_n:.0f})"
        )


def _column(values: npt.ArrayLike, what: str, n: int | None = None) -> npt.NDArray[np.float64]:
    check_unmasked(values, what)
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise Cr2Error(f"{what}: expected a list of numbers, got {shown(values)}") from None
    if column.ndim != 1 or (n is not None and len(column) != n) or not column.size:
        size = "at least one" if n is None else n
        raise Cr2Error(f"{what}: expected {size} numbers in a list, got shape {column.shape}")
    return column


def _log(
    outcomes: npt.ArrayLike, propensities: npt.ArrayLike, seen: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Outcomes, propensities and what was seen, checked; outcomes not seen are 0."""
    y = _column(outcomes, "outcomes")
    pi = _column(propensities, "propensities", len(y))
    if not ((pi >= _LEAST) & (pi <= 1)).all():
        bad = pi[~((pi >= _LEAST) & (pi <= 1))][0]
        raise Cr2Error(
            f"propensities: expected probabilities from {_LEAST:g} to 1, got {bad}; a query that "
            f"could not have been looked at says nothing, and no weight makes up for it"
        )
    looked = ~np.isnan(y) if seen is None else np.asarray(seen)
    if looked.dtype != np.bool_ or looked.shape != y.shape:
        raise Cr2Error(
            f"seen: expected {len(y)} booleans, got {looked.dtype} of shape {looked.shape}"
        )
    if not np.isfinite(y[looked]).all():
        raise Cr2Error("outcomes: expected finite numbers where seen, got NaN or infinity")
    if not looked[pi == 1].all():
        missing = int((~looked[pi == 1]).sum())
        raise Cr2Error(
            f"outcomes: expected one for each query of propensity 1, got {missing} without; leave "
            f"queries out whose outcome never came, and say so"
        )
    return np.where(looked, y, 0.0), pi, looked


def alarm_inputs(
    losses: npt.ArrayLike, propensities: npt.ArrayLike, seen: npt.ArrayLike | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Losses and weights (N,) as ``RiskAlarm.update_many`` takes them.

    Queries not looked at stay in, with weight 0: leaving them out voids the promise.

    Parameters
    ----------
    losses : array_like, (N,)
        In [0, 1]; NaN, or anything, where not seen.
    propensities : array_like, (N,)
        Probability that each query was looked at, in [1e-6, 1], fixed before its loss was known.
    seen : array_like of bool, (N,), optional
        By default where `losses` is not NaN.
    """
    y, pi, looked = _log(losses, propensities, seen)
    return y, np.where(looked, 1 / pi, 0.0)


def estimate(
    outcomes: npt.ArrayLike,
    propensities: npt.ArrayLike,
    *,
    seen: npt.ArrayLike | None = None,
    predicted: npt.ArrayLike | None = None,
    method: Method | None = None,
    level: float = 0.95,
) -> Estimate:
    """Mean outcome over all queries, from those that were looked at.

    Parameters
    ----------
    outcomes : array_like, (N,)
        One per query; NaN, or anything, where not seen.
    propensities : array_like, (N,)
        Probability that each query was looked at, in [1e-6, 1], fixed before its outcome was known.
    seen : array_like of bool, (N,), optional
        By default where `outcomes` is not NaN.
    predicted : array_like, (N,), optional
        What was expected of each query, whether seen or not, by a model that did not see these
        outcomes (a teacher's probability, say).
    method : {"ips", "self-normalised", "doubly-robust"}, optional
        By default doubly robust with `predicted`, else self-normalised. Plain "ips" is unbiased but
        varies most.
    level : float
        Of the interval, in (0, 1).

    Returns
    -------
    Estimate

    Raises
    ------
    Cr2Error
        Other lengths, a propensity out of range, an outcome that is no number, nothing seen.
    """
    y, pi, looked = _log(outcomes, propensities, seen)
    level = fraction(level, "level")
    how = method or ("self-normalised" if predicted is None else "doubly-robust")
    check_choice(how, get_args(Method), "method")
    if (how == "doubly-robust") != (predicted is not None):
        raise Cr2Error(
            f"predicted: expected predictions for every query with method='doubly-robust', and "
            f"only then, got {'none' if predicted is None else 'some'} with {how!r}"
        )
    if looked.sum() < 2:
        raise Cr2Error(f"outcomes: expected at least two seen, got {int(looked.sum())}")
    n, w = len(y), np.where(looked, 1 / pi, 0.0)
    z = NormalDist().inv_cdf((1 + level) / 2)
    if how == "self-normalised":
        value, low, high = _ratio(y, w, z)
    else:
        m = np.zeros(n) if predicted is None else _column(predicted, "predicted", n)
        if not np.isfinite(m).all():
            raise Cr2Error("predicted: expected finite numbers, got NaN or infinity")
        terms = m + w * (y - m)
        value = float(terms.mean())
        half = _student(z, int(looked.sum()) - 1) * float(terms.std(ddof=1)) / sqrt(n)
        low, high = value - half, value + half
    return Estimate(
        value, low, high, level, how, n, int(looked.sum()), float(w.sum() ** 2 / (w @ w))
    )


def _ratio(
    y: npt.NDArray[np.float64], w: npt.NDArray[np.float64], z: float
) -> tuple[float, float, float]:
    """Hajek's ratio and its interval.

    Of outcomes in [0, 1] it is Wilson's interval for as many queries as would vary alike, which
    holds up where outcomes are rare, as false acceptances are; of others it is Student's.
    """
    seen, total = w > 0, float(w.sum())
    value = float(w @ y / total)
    variance = float((w**2 @ (y - value) ** 2) / total**2)
    if ((y[seen] < 0) | (y[seen] > 1)).any():
        half = _student(z, int(seen.sum()) - 1) * sqrt(variance)
        return value, value - half, value + half
    n = value * (1 - value) / variance if variance > 0 else float(total**2 / (w @ w))
    middle, slack = value + z**2 / (2 * n), z * sqrt(value * (1 - value) / n + (z / (2 * n)) ** 2)
    low, high = ((middle + sign * slack) / (1 + z**2 / n) for sign in (-1, 1))
    return value, max(low, 0.0), min(high, 1.0)


def _student(z: float, df: int) -> float:
    """Student's quantile where the normal one is z (Cornish-Fisher, to 1/df^2)."""
    return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)


def of_policy(
    logged_local: npt.ArrayLike,
    target_local: npt.ArrayLike,
    outcomes: npt.ArrayLike,
    shadow_outcomes: npt.ArrayLike,
    propensities: npt.ArrayLike,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Outcomes and propensities (N,) that another policy would have met, for :func:`estimate`.

    Where the policy sends a query to the side that answered it, its outcome is the one served,
    with propensity 1; elsewhere it is the shadow's, seen with the shadow's propensity (NaN if not).

    Parameters
    ----------
    logged_local, target_local : array_like of bool, (N,)
        Whether the query was, and would be, answered on the device.
    outcomes, shadow_outcomes : array_like, (N,)
        Of the side that answered, and of the other one; NaN where there was no shadow.
    propensities : array_like, (N,)
        Probability of a shadow. Where it is 0 the policy has to agree with the log.

    Raises
    ------
    Cr2Error
        Other lengths; a query that the policy would have sent where it could never have been seen.
    """
    served, shadow = _column(outcomes, "outcomes"), _column(shadow_outcomes, "shadow_outcomes")
    n = len(served)
    pi = _column(propensities, "propensities", n)
    logged, target = np.asarray(logged_local), np.asarray(target_local)
    for name, column in (("logged_local", logged), ("target_local", target)):
        if column.dtype != np.bool_ or column.shape != (n,):
            raise Cr2Error(
                f"{name}: expected {n} booleans, got {column.dtype} of shape {column.shape}"
            )
    if len(shadow) != n:
        raise Cr2Error(f"shadow_outcomes: expected {n} numbers, got {len(shadow)}")
    same = logged == target
    hidden = int((~same & ~(pi > 0)).sum())
    if hidden:
        raise Cr2Error(
            f"propensities: expected some above 0 wherever the policy differs from the log, got "
            f"{hidden} queries with 0: what the other side would have answered cannot be told; "
            f"shadow with a probability first"
        )
    return np.where(same, served, shadow), np.where(same, 1.0, pi)
