"""What a calibration reports.

In: grids of lam and alpha, thresholds and counts. Out: :class:`CalibrationReport`, with the
guarantee in words.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast._util import renamed
from cr2fast.calibration.groups import GroupReport
from cr2fast.calibration.promise import statement


def threshold_word(threshold: float) -> float | str:
    """A threshold as a number, or an infinite one as the words it means."""
    return {np.inf: "defer all", -np.inf: "accept all"}.get(threshold, threshold)


def threshold_words(thresholds: npt.NDArray[np.float32]) -> list[list[float | str]]:
    """Thresholds (L, A) as numbers, the infinite ones as the words they mean."""
    return [[threshold_word(t) for t in row] for row in thresholds.tolist()]


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in data.items()}


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """What a calibration did.

    Attributes
    ----------
    lams, alphas : ndarray of float64, (L,), (A,)
        The grid.
    thresholds : ndarray of float32, (L, A)
        Margins: a query is accepted where its margin >= threshold. +inf defers all, -inf accepts
        all.
    n : int
        Calibration samples N.
    allowed : tuple of (int or None), (A,)
        False acceptances allowed on the calibration set (:func:`allowed_counts`); None where alpha
        is infeasible.
    empirical_risk : ndarray of float64, (L, A)
        Fraction of the calibration set wrongly kept local. At most k / N by construction.
    local_rate : ndarray of float64, (L, A)
        Fraction of the calibration set accepted.
    judge : {"teacher", "outcomes"}
        What an acceptance was measured against.
    lengths : {"predicted", "known"}
        Output lengths that priced the judge's choice.
    delta : float or None
        None: the promise of each cell stands by itself. Otherwise all hold at once with probability
        1 - delta.
    defer_atypical : float or None
        Queries whose typicality p-value is at most this are deferred too, and counted so above.
    left_out : tuple of float
        Default risk levels that N samples cannot promise, and which are not on the grid.
    dropped : int
        Queries left out because training had seen them, by id or by what they say.
    groups : GroupReport or None
        What was done within each group, where there are groups.
    """

    lams: npt.NDArray[np.float64]
    alphas: npt.NDArray[np.float64]
    thresholds: npt.NDArray[np.float32]
    n: int
    allowed: tuple[int | None, ...]
    empirical_risk: npt.NDArray[np.float64]
    local_rate: npt.NDArray[np.float64]
    judge: str
    lengths: str
    delta: float | None = None
    defer_atypical: float | None = None
    left_out: tuple[float, ...] = ()
    dropped: int = 0
    groups: GroupReport | None = None

    reference = renamed.attribute("reference", "judge")

    @property
    def infeasible(self) -> tuple[float, ...]:
        """Risk levels that N samples cannot promise; every query is deferred there."""
        pairs = zip(self.alphas.tolist(), self.allowed, strict=True)
        return tuple(a for a, k in pairs if k is None)

    @property
    def statement(self) -> str:
        """The guarantee, in words."""
        return statement(
            self.n,
            self.judge,
            self.lengths,
            self.alphas.tolist(),
            self.delta,
            len(self.lams),
            self.defer_atypical,
            self.left_out,
            None if self.groups is None else vars(self.groups),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON; infinite thresholds as the words they mean."""
        data = _plain(asdict(self))
        data["thresholds"] = threshold_words(self.thresholds)
        if self.groups is not None:
            data["groups"] = _plain(data["groups"])
            data["groups"]["thresholds"] = [threshold_words(t) for t in self.groups.thresholds]
        return renamed.both_names(data, reference="judge") | {
            "infeasible": list(self.infeasible),
            "statement": self.statement,
        }
