"""What a calibration is asked for, and what it reports.

In: grids of lam and alpha, thresholds and counts. Out: :class:`CalibrationReport`, with the
guarantee in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import (
    Cr2Error,
    InfeasibleAlphaError,
    OperatingPointError,
    allowed_false_acceptances,
    crc_thresholds,
)
from cr2fast.intervals import largest_count

ALPHAS = (0.002, 0.005, 0.01, 0.02, 0.05)


def default_lams(low: float = 0.1, high: float = 20.0, n: int = 32) -> npt.NDArray[np.float64]:
    """Grid of cost weights: log-spaced, rounded to two digits so that people can type them.

    The point nearest to 1 (on the log axis) becomes 1 when the range holds it.

    Parameters
    ----------
    low, high : float
        Ends of the grid.
    n : int
        Points before duplicates of rounding are dropped.

    Returns
    -------
    ndarray of float64, (L,)
        Strictly ascending.
    """
    if not (0 < low < high < np.inf) or n < 2:
        raise Cr2Error(f"lams: expected 0 < low < high and n >= 2, got {low}, {high}, {n}")
    grid = np.geomspace(low, high, n)
    if low <= 1 <= high:
        grid[np.abs(np.log(grid)).argmin()] = 1.0
    rounded = np.array([float(f"{x:.2g}") for x in grid])
    return np.unique(np.clip(rounded, low, high))


def allowed_counts(
    n: int, alphas: Sequence[float], lams: int, delta: float | None
) -> tuple[int | None, ...]:
    """False acceptances k allowed among `n` calibration samples, one a risk level.

    Parameters
    ----------
    n : int
        Calibration samples N.
    alphas : sequence of float, (A,)
    lams : int
        Size L of the grid of cost weights.
    delta : float, optional
        None: k = floor(alpha (N+1)) - 1 (equation 68), each cell for itself. Else, for samples
        drawn independently (exchangeable is not enough here): with k allowed, the risk behind the
        threshold is at most Beta(k + 1, N - k) distributed over calibration sets, so it exceeds
        alpha with probability at most P(Binomial(N, alpha) <= k); k is the largest that keeps this
        under delta / (L A), and by Bonferroni all L A cells hold at once with probability
        1 - delta.

    Returns
    -------
    tuple of (int or None), (A,)
        None where alpha is infeasible.
    """
    if bad := [a for a in alphas if not 0 < a < 1]:
        raise Cr2Error(f"alpha: expected a risk level strictly between 0 and 1, got {bad[0]}")
    if delta is None:
        return tuple(allowed_false_acceptances(a, n) for a in alphas)
    return tuple(largest_count(n, a, delta / (lams * len(alphas))) for a in alphas)


def statement(
    n: int,
    reference: str,
    lengths: str,
    alphas: Sequence[float],
    delta: float | None = None,
    lams: int = 1,
) -> str:
    """What thresholds from `n` samples promise, and what they do not.

    Parameters
    ----------
    n : int
        Calibration samples N.
    reference : {"teacher", "outcomes"}
    lengths : {"predicted", "known"}
    alphas : sequence of float
        Calibrated risk levels; the infeasible ones are named.
    delta, lams
        As in :func:`allowed_counts`.
    """
    against = (
        "the full-information choice"
        if reference == "teacher"
        else "the better choice by the recorded answers"
    )
    event = f"a query is kept local although {against} ({lengths} output lengths) is an edge model"
    if delta is None:
        text = (
            f"For each cost weight fixed in advance: the probability that {event} is at most "
            f"alpha, on average over calibration sets of {n} queries exchangeable with future "
            f"ones. Not simultaneous over the grid; void if the query mix or the link distribution "
            f"moves."
        )
    else:
        text = (
            f"With probability at least 1 - {delta:g} over calibration sets of {n} queries drawn "
            f"independently from the distribution of future ones: at every cost weight and risk "
            f"level of the grid at once ({lams} x {len(alphas)}), the probability that {event} is "
            f"at most alpha. Void if the query mix or the link distribution moves."
        )
    pairs = zip(alphas, allowed_counts(n, alphas, lams, delta), strict=True)
    if infeasible := tuple(a for a, k in pairs if k is None):
        text += f" Infeasible with {n} samples, all queries deferred: {infeasible}."
    return text


def threshold_word(threshold: float) -> float | str:
    """A threshold as a number, or an infinite one as the words it means."""
    return {np.inf: "defer all", -np.inf: "accept all"}.get(threshold, threshold)


def threshold_words(thresholds: npt.NDArray[np.float32]) -> list[list[float | str]]:
    """Thresholds (L, A) as numbers, the infinite ones as the words they mean."""
    return [[threshold_word(t) for t in row] for row in thresholds.tolist()]


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """What a calibration did.

    Attributes
    ----------
    lams, alphas : ndarray of float64, (L,), (A,)
        The grid.
    thresholds : ndarray of float32, (L, A)
        Margins; accept where margin >= threshold. +inf defers all, -inf accepts all.
    n : int
        Calibration samples N.
    allowed : tuple of (int or None), (A,)
        False acceptances allowed on the calibration set (:func:`allowed_counts`); None where alpha
        is infeasible.
    empirical_risk : ndarray of float64, (L, A)
        Fraction of the calibration set wrongly kept local. At most k / N by construction.
    local_rate : ndarray of float64, (L, A)
        Fraction of the calibration set accepted.
    reference, lengths : str
        What "wrongly" was measured against.
    delta : float or None
        None: each cell's promise is its own. Else all hold at once with probability 1 - delta.
    """

    lams: npt.NDArray[np.float64]
    alphas: npt.NDArray[np.float64]
    thresholds: npt.NDArray[np.float32]
    n: int
    allowed: tuple[int | None, ...]
    empirical_risk: npt.NDArray[np.float64]
    local_rate: npt.NDArray[np.float64]
    reference: str
    lengths: str
    delta: float | None = None

    @property
    def infeasible(self) -> tuple[float, ...]:
        """Risk levels that N samples cannot promise; every query is deferred there."""
        pairs = zip(self.alphas.tolist(), self.allowed, strict=True)
        return tuple(a for a, k in pairs if k is None)

    @property
    def statement(self) -> str:
        """The guarantee, in words."""
        return statement(
            self.n, self.reference, self.lengths, self.alphas.tolist(), self.delta, len(self.lams)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON (infinite thresholds as the words they mean)."""
        data = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(self).items()}
        data["thresholds"] = threshold_words(self.thresholds)
        return data | {"infeasible": list(self.infeasible), "statement": self.statement}


def ascending(values: npt.ArrayLike, what: str) -> npt.NDArray[np.float64]:
    """Sorted distinct numbers, (K,) float64; `what` names them in errors."""
    try:
        raw = np.asarray(values)
        raw = raw if raw.dtype == np.float32 else raw.astype(np.float64)
    except (TypeError, ValueError):
        raise Cr2Error(f"{what}: expected a non-empty list of numbers, got {values!r}") from None
    # A float32 0.05 means 0.05, not the double nearest to its bits.
    exact = [float(str(v)) for v in raw.ravel()] if raw.dtype == np.float32 else raw
    array = np.asarray(exact, dtype=np.float64).reshape(raw.shape)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise Cr2Error(f"{what}: expected a non-empty list of numbers, got {values!r}")
    array = np.sort(array)
    if (np.diff(array) <= 0).any():
        raise Cr2Error(f"{what}: expected distinct values, got {array.tolist()}")
    return array


def lam_grid(lams: npt.ArrayLike | None, low: float, high: float) -> npt.NDArray[np.float64]:
    """Cost weights to calibrate at: those given, which must lie in the trained range, or default.

    Parameters
    ----------
    lams : array_like of float, (L,), optional
    low, high : float
        The trained range.

    Returns
    -------
    ndarray of float64, (L,)
        Strictly ascending.
    """
    if lams is None:
        return default_lams(low, high)
    grid = ascending(lams, "lams")
    slack = 1e-9
    outside = grid[(grid < low * (1 - slack)) | (grid > high * (1 + slack))]
    if outside.size:
        raise Cr2Error(
            f"lams: expected values in the trained range [{low}, {high}], got "
            f"{outside.tolist()}; fit with lam_range wide enough"
        )
    return grid


def index_of(grid: npt.NDArray[np.float64], value: float | None, what: str) -> int:
    """Place of a calibrated value; an OperatingPointError that lists the grid where it is not."""
    number = value if isinstance(value, (int, float)) else np.nan
    near = np.flatnonzero(np.isclose(grid, number, rtol=1e-9, atol=0))
    if not near.size:
        raise OperatingPointError(f"{what}={value}: expected one of {grid.tolist()}")
    return int(near[0])


def check_delta(simultaneous: bool, delta: float | None) -> float | None:
    """The delta promised, or None where each cell has its own promise."""
    if not simultaneous:
        if delta is not None:
            raise Cr2Error(f"delta: expected it with simultaneous=True alone, got {delta!r}")
        return None
    delta = 0.1 if delta is None else delta
    if not (isinstance(delta, (int, float)) and 0 < delta < 1):
        raise Cr2Error(f"delta: expected a number in (0, 1), got {delta!r}")
    return float(delta)


def simultaneous_thresholds(
    scores: npt.NDArray[np.float32],
    prefers_edge: npt.NDArray[np.bool_],
    alphas: npt.NDArray[np.float64],
    allowed: Sequence[int | None],
    on_infeasible: str,
    threads: int,
) -> npt.NDArray[np.float32]:
    """Thresholds (L, A) that allow so many false acceptances each."""
    if on_infeasible not in ("raise", "defer"):
        raise Cr2Error(f"on_infeasible: expected 'raise' or 'defer', got {on_infeasible!r}")
    n = scores.shape[1]
    infeasible = [a for a, k in zip(alphas.tolist(), allowed, strict=True) if k is None]
    if infeasible and on_infeasible == "raise":
        raise InfeasibleAlphaError(
            f"alpha={infeasible[0]} is infeasible with {n} calibration samples for "
            f"{len(scores)} x {len(alphas)} cells at once; use more samples, fewer cells or a "
            f"larger delta, or defer every query there: on_infeasible='defer'"
        )
    counts = sorted({k for k in allowed if k is not None})
    out = np.full((len(scores), len(alphas)), np.inf, dtype=np.float32)
    if counts:
        # Half a count above, so that rounding cannot make it one less.
        levels = [(k + 1.5) / (n + 1) for k in counts]
        found = crc_thresholds(scores, prefers_edge, levels, "raise", threads)
        for j, k in enumerate(allowed):
            if k is not None:
                out[:, j] = found[:, counts.index(k)]
    return out
