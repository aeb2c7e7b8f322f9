"""What an evaluation found, at every operating point.

In: counts and means by (lam, alpha). Out: :class:`Evaluation`, with intervals, the Pareto front and
the figures of one operating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast.calibration import allowed_counts, index_of
from cr2fast.evaluation.intervals import binomial_interval, risk_tail

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results on N test queries; arrays are (L, A) unless said.

    Attributes
    ----------
    lams, alphas : ndarray, (L,), (A,)
        The calibrated grid.
    n, n_answerable, n_calibration : int
        Test queries, those that some model answers, and calibration samples.
    accuracy, accuracy_answerable : ndarray
        Fraction answered correctly, of all queries and of the answerable ones.
    cost : ndarray
        Mean normalised cost c.
    latency_s, latency_p50_s, latency_p95_s : ndarray
        Seconds a query.
    energy_j, energy_p50_j, energy_p95_j : ndarray
        Joules a query; NaN where the cost table has no power.
    local_rate : ndarray
        Fraction kept on the device.
    false_acceptances : ndarray of int
        Queries kept local although the reference prefers an edge model.
    needless_deferrals : ndarray
        Fraction deferred although the reference prefers the local model.
    share : ndarray, (L, A, M)
        Fraction of queries that each model answers.
    baselines : dict
        Full-information and oracle choices at each lam, and each model alone.
    lengths, reference, deferred : str
        The mode.
    delta : float or None
        Of a simultaneous calibration.
    statement : str
        What the thresholds promise, and what they do not.
    """

    lams: F64
    alphas: F64
    n: int
    n_answerable: int
    n_calibration: int
    accuracy: F64
    accuracy_answerable: F64
    cost: F64
    latency_s: F64
    latency_p50_s: F64
    latency_p95_s: F64
    energy_j: F64
    energy_p50_j: F64
    energy_p95_j: F64
    local_rate: F64
    false_acceptances: npt.NDArray[np.int64]
    needless_deferrals: F64
    share: F64
    baselines: dict[str, Any]
    lengths: str
    reference: str
    deferred: str
    delta: float | None
    statement: str

    @property
    def risk(self) -> F64:
        """Marginal false-acceptance rate: the quantity that alpha bounds in expectation."""
        risk: F64 = self.false_acceptances / self.n
        return risk

    @cached_property
    def risk_interval(self) -> F64:
        """(L, A, 2): exact 95 % binomial interval of :attr:`risk`."""
        flat = [binomial_interval(int(k), self.n) for k in self.false_acceptances.ravel()]
        return np.array(flat).reshape(*self.false_acceptances.shape, 2)

    @property
    def compatible(self) -> npt.NDArray[np.bool_]:
        """(L, A): whether the interval of the risk reaches down to alpha."""
        compatible: npt.NDArray[np.bool_] = self.risk_interval[:, :, 0] <= self.alphas
        return compatible

    @cached_property
    def p_value(self) -> F64:
        """(L, A): chance of a test risk this high when the guarantee holds with equality.

        Counts both draws, calibration's and test's
        (:func:`cr2fast.evaluation.intervals.risk_tail`); NaN where alpha is
        infeasible. Small values in many cells would speak against the guarantee.
        """
        out = np.full(self.false_acceptances.shape, np.nan)
        allowed = allowed_counts(
            self.n_calibration, self.alphas.tolist(), len(self.lams), self.delta
        )
        for j, k in enumerate(allowed):
            if k is not None:
                column = self.false_acceptances[:, j].tolist()
                out[:, j] = [risk_tail(c, self.n, k, self.n_calibration) for c in column]
        return out

    def at(self, lam: float, alpha: float) -> dict[str, float]:
        """All figures of one operating point."""
        i, j = index_of(self.lams, lam, "lam"), index_of(self.alphas, alpha, "alpha")
        names = [
            "accuracy", "accuracy_answerable", "cost", "latency_s", "latency_p50_s",
            "latency_p95_s", "energy_j", "energy_p50_j", "energy_p95_j", "local_rate", "risk",
            "needless_deferrals",
        ]  # fmt: skip
        low, high = self.risk_interval[i, j]
        return {
            "lam": float(self.lams[i]),
            "alpha": float(self.alphas[j]),
            **{name: float(getattr(self, name)[i, j]) for name in names},
            "risk_low": float(low),
            "risk_high": float(high),
        }

    def pareto(self) -> F64:
        """(K, 2) cost and accuracy: the non-decreasing upper hull over all operating points."""
        return upper_hull(self.cost.ravel(), self.accuracy.ravel())

    def cost_at_accuracy(self, accuracy: float) -> float:
        """Least mean cost among operating points of at least this accuracy; NaN if none has it."""
        good = self.accuracy >= accuracy
        return float(self.cost[good].min()) if good.any() else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        data = {
            k: v.tolist() if isinstance(v, np.ndarray) else v
            for k, v in self.__dict__.items()
            if k not in ("risk_interval", "p_value")
        }
        return data | {
            "risk": self.risk.tolist(),
            "risk_interval": self.risk_interval.tolist(),
            "p_value": self.p_value.tolist(),
            "pareto": self.pareto().tolist(),
        }


def upper_hull(cost: F64, accuracy: F64) -> F64:
    """Non-decreasing concave upper hull of (cost, accuracy) points, ascending in cost, (K, 2)."""
    order = np.lexsort((-accuracy, cost))
    hull: list[tuple[float, float]] = []
    for x, y in zip(cost[order].tolist(), accuracy[order].tolist(), strict=True):
        if hull and y <= hull[-1][1]:
            continue
        while len(hull) >= 2:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) > (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return np.array(hull)
