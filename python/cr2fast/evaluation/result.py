"""What an evaluation found, at every operating point.

In: counts and means by (lam, alpha). Out: :class:`Evaluation`, with intervals, the Pareto front and
the figures of one operating point.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util import renamed
from cr2fast._util.checks import real, shown
from cr2fast.calibration import allowed_counts, index_of
from cr2fast.calibration.point import OperatingPoint
from cr2fast.evaluation import choose
from cr2fast.evaluation.figures import Figures
from cr2fast.evaluation.intervals import binomial_interval, risk_tail
from cr2fast.evaluation.queries import F64, Grid, Queries


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results on N test queries; arrays are (L, A) unless said.

    Attributes
    ----------
    lams, alphas : ndarray, (L,), (A,)
        The calibrated grid.
    models : tuple of str, (M,)
        Names, the device's model first.
    unit_model : str
        The model whose mean cost is 1.
    n, n_answerable, n_calibration : int
        Test queries, those that some model answers, and calibration samples.
    accuracy, accuracy_answerable : ndarray
        Fraction answered correctly, among all queries and among the answerable ones.
    cost : ndarray
        Mean normalised cost c.
    latency_s, latency_p50_s, latency_p95_s : ndarray
        Mean and quantiles, seconds per query.
    usd, usd_p50, usd_p95 : ndarray
        Dollars per query; NaN where the cost table has no prices.
    energy_j, energy_p50_j, energy_p95_j : ndarray
        Mean and quantiles, joules per query; NaN where the cost table has no power.
    local_rate : ndarray
        Fraction kept on the device.
    false_acceptances : ndarray of int
        Queries kept local although the judge prefers an edge model.
    needless_deferrals : ndarray
        Fraction deferred although the judge prefers the local model.
    share : ndarray, (L, A, M)
        Fraction of queries that each model answers.
    baselines : dict
        Figures of the full-information and oracle choices at each lam, and of each model on all
        queries ("alone").
    lengths : {"predicted", "known"}
        Output lengths that the edge knew when it chose.
    judge : {"teacher", "outcomes"}
        What an acceptance was measured against.
    deferred : {"edge-only", "inclusive", "fallback"}
        Where deferred queries could go.
    delta : float or None
        Delta of a simultaneous calibration; None for any other.
    statement : str
        What the thresholds promise, and what they do not.
    dropped : int
        Queries left out because they trained or calibrated the router, by id or by what they say.
    queries : Queries or None
        What each query came to, from which :meth:`choose` chooses.
    router : str
        Hash of the router's file.
    """

    lams: F64
    alphas: F64
    models: tuple[str, ...]
    unit_model: str
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
    usd: F64
    usd_p50: F64
    usd_p95: F64
    local_rate: F64
    false_acceptances: npt.NDArray[np.int64]
    needless_deferrals: F64
    share: F64
    baselines: dict[str, Any]
    lengths: str
    judge: str
    deferred: str
    delta: float | None
    statement: str
    dropped: int = 0
    queries: Queries | None = field(default=None, repr=False)
    router: str = ""

    reference = renamed.attribute("reference", "judge")

    @property
    def risk(self) -> F64:
        """Fraction of test queries falsely accepted, which alpha bounds in expectation, (L, A)."""
        risk: F64 = self.false_acceptances / self.n
        return risk

    @cached_property
    def risk_interval(self) -> F64:
        """Exact 95 % binomial interval of :attr:`risk`, (L, A, 2)."""
        flat = [binomial_interval(int(k), self.n) for k in self.false_acceptances.ravel()]
        return np.array(flat).reshape(*self.false_acceptances.shape, 2)

    @property
    def compatible(self) -> npt.NDArray[np.bool_]:
        """Whether the interval of the risk reaches down to alpha, (L, A)."""
        compatible: npt.NDArray[np.bool_] = self.risk_interval[:, :, 0] <= self.alphas
        return compatible

    @cached_property
    def p_value(self) -> F64:
        """Chance of a test risk this high when the guarantee holds with equality, (L, A).

        Counts both draws, calibration's and test's
        (:func:`cr2fast.evaluation.intervals.risk_tail`); NaN where alpha is
        infeasible. Small values in many cells speak against the guarantee.
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

    def at(self, lam: float, alpha: float) -> Figures:
        """All figures of one operating point, by name: a dict that prints as a small table.

        Parameters
        ----------
        lam, alpha : float
            A calibrated operating point; any other is an OperatingPointError.
        """
        i, j = index_of(self.lams, lam, "lam"), index_of(self.alphas, alpha, "alpha")
        names = [
            "accuracy", "accuracy_answerable", "cost", "latency_s", "latency_p50_s",
            "latency_p95_s", "energy_j", "energy_p50_j", "energy_p95_j", "usd", "usd_p50",
            "usd_p95", "local_rate", "risk", "needless_deferrals",
        ]  # fmt: skip
        low, high = self.risk_interval[i, j]
        return Figures(
            {
                "lam": float(self.lams[i]),
                "alpha": float(self.alphas[j]),
                **{name: float(getattr(self, name)[i, j]) for name in names},
                "risk_low": float(low),
                "risk_high": float(high),
            }
        )

    @property
    def big_model(self) -> str:
        """The unit model or, where that is the device's, the most accurate edge model."""
        edge = np.asarray(self.baselines["alone"]["accuracy"][1:])
        return self.models[self.models.index(self.unit_model) or 1 + int(edge.argmax())]

    def choose(
        self,
        *,
        min_accuracy: float | None = None,
        relative_accuracy: float | None = None,
        max_latency_s: float | None = None,
        max_latency_p95_s: float | None = None,
        max_energy_j: float | None = None,
        max_usd: float | None = None,
        delta: float | None = None,
        clip: float = 10.0,
    ) -> OperatingPoint:
        """Choose the best operating point that keeps some wishes on these queries.

        Evaluate a validation split for this: queries that neither trained nor calibrated the router
        (:func:`cr2fast.evaluate` checks that) and that the test split does not hold
        (``evaluate(router, test, point=point)`` checks that).

        With `min_accuracy` or `relative_accuracy` the best point is the one with the least mean
        normalised cost, else the most accurate one.

        Parameters
        ----------
        min_accuracy : float, optional
            Least fraction of queries answered correctly, 0 to 1.
        relative_accuracy : float, optional
            Least accuracy as a fraction of the accuracy of :attr:`big_model` on all queries, such
            as 0.9.
        max_latency_s, max_latency_p95_s : float, optional
            Most seconds per query, on average, and within which 95 % of the queries are answered.
        max_energy_j : float, optional
            Most joules per query, on average.
        max_usd : float, optional
            Most dollars per query, on average: 0.003 is $3 per 1,000.
        delta : float, optional
            Make the wishes a promise: with probability 1 - `delta` over validation sets they hold
            in expectation over future queries (learn then test, arXiv 2110.01052). In (0, 1).
        clip : float
            With `delta`, what a mean is promised of: costs cut at `clip` times their budget, since
            of costs without an upper bound nothing can be promised.

        Returns
        -------
        OperatingPoint
            It prints as a table of what to expect.

        Raises
        ------
        InfeasibleWishError
            No point keeps the wishes, or none can promise them; the message names the wish that
            binds and the nearest point.
        Cr2Error
            No wish, NaN, a negative budget, `delta` out of (0, 1), a figure that the cost table
            does not know; an evaluation of an earlier version, without its queries.
        """
        if self.queries is None:
            raise Cr2Error("choose: expected an evaluation with its queries; evaluate again")
        names = ("accuracy", "cost", "latency_s", "latency_p95_s", "energy_j", "usd")
        grid = Grid(
            lams=self.lams,
            alphas=self.alphas,
            figures={name: getattr(self, name) for name in names},
            queries=self.queries,
            false_acceptances=self.false_acceptances,
            local_rate=self.local_rate,
            big_model=(self.big_model, self.models.index(self.big_model)),
            router=self.router,
        )
        asked = {
            "min_accuracy": min_accuracy,
            "relative_accuracy": relative_accuracy,
            "max_latency_s": max_latency_s,
            "max_latency_p95_s": max_latency_p95_s,
            "max_energy_j": max_energy_j,
            "max_usd": max_usd,
        }
        return choose.choose(grid, asked, delta, clip)

    def pareto(self) -> F64:
        """Cost and accuracy on the non-decreasing upper hull of all operating points, (K, 2).

        The hull is picked on these very queries, so it is a little better than what new queries get
        from its points; no plot draws it.
        """
        return upper_hull(self.cost.ravel(), self.accuracy.ravel())

    def cheapest(self, min_accuracy: float) -> Figures | None:
        """Figures of the cheapest operating point that is accurate enough, as :meth:`at` has them.

        Parameters
        ----------
        min_accuracy : float
            Least fraction of test queries answered correctly.

        Returns
        -------
        dict or None
            None where no operating point reaches it.
        """
        least = real(min_accuracy, "min_accuracy")
        if not least >= 0:
            raise Cr2Error(
                f"min_accuracy: expected a number from 0 to 1, got {shown(min_accuracy)}"
            )
        cost = np.where(self.accuracy >= least, self.cost, np.inf)
        if not np.isfinite(cost).any():
            return None
        i, j = np.unravel_index(cost.argmin(), cost.shape)
        return self.at(float(self.lams[i]), float(self.alphas[j]))

    def cost_at_accuracy(self, accuracy: float) -> float:
        """The cost of :meth:`cheapest`, by its old name; NaN where that is None."""
        renamed.say("Evaluation.cost_at_accuracy", "Evaluation.cheapest")
        point = self.cheapest(accuracy)
        return float("nan") if point is None else point["cost"]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        data = {
            k: v.tolist() if isinstance(v, np.ndarray) else v
            for k, v in self.__dict__.items()
            if k not in ("risk_interval", "p_value", "queries")
        }
        return renamed.both_names(data, reference="judge") | {
            "risk": self.risk.tolist(),
            "risk_interval": self.risk_interval.tolist(),
            "p_value": self.p_value.tolist(),
            "pareto": self.pareto().tolist(),
        }


def upper_hull(cost: F64, accuracy: F64) -> F64:
    """Concave, non-decreasing upper hull of (cost, accuracy) points, ascending in cost, (K, 2)."""
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
