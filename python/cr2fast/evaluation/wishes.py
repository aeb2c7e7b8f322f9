"""What a user asks of an operating point: an accuracy, budgets, or both.

In: keywords. Out: checked :class:`Wish` es, each with the figure it bounds and the test of its
promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import real, shown
from cr2fast.evaluation.bounds import at_most_p, bounded_p
from cr2fast.evaluation.queries import F64, Grid

# Keyword, the figure it bounds, and how people read it: words and unit.
_WISHES = {
    "min_accuracy": ("accuracy", "accuracy", ""),
    "relative_accuracy": ("accuracy", "accuracy", ""),
    "max_latency_s": ("latency_s", "mean latency", " s"),
    "max_latency_p95_s": ("latency_p95_s", "95 % quantile of the latency", " s"),
    "max_energy_j": ("energy_j", "mean energy", " J"),
    "max_usd": ("usd", "mean price", " dollars per query"),
}
_TAIL = 0.05
_LACKING = {
    "latency_s": "latency",
    "latency_p95_s": "latency",
    "energy_j": "power",
    "usd": "prices",
}


@dataclass(frozen=True)
class Wish:
    """One bound on one figure.

    Attributes
    ----------
    name : str
        The keyword.
    asked : float
        What the user said.
    bound : float
        What the figure is to keep: for a relative accuracy, a fraction of the big model's.
    """

    name: str
    asked: float
    bound: float

    @property
    def figure(self) -> str:
        """The figure of :class:`cr2fast.Evaluation` that is bounded."""
        return _WISHES[self.name][0]

    @property
    def is_floor(self) -> bool:
        """Whether more is better."""
        return self.figure == "accuracy"

    def words(self, value: float | None = None) -> str:
        """The figure at a value, as people read it; without one, the wish itself."""
        _, what, unit = _WISHES[self.name]
        if value is not None:
            return f"{what} {value:.4g}{unit}"
        return f"{what} at {'least' if self.is_floor else 'most'} {self.bound:.4g}{unit}"

    def kept(self, values: F64) -> npt.NDArray[np.bool_]:
        """Where the figure keeps the bound; sums of floats have a last digit to spare."""
        slack = 1e-12 * max(1.0, abs(self.bound))
        good = values >= self.bound - slack if self.is_floor else values <= self.bound + slack
        return np.asarray(good)

    def violation(self, values: F64) -> F64:
        """By what part of the bound the figure fails it; at most 0 where it is kept."""
        gap = self.bound - values if self.is_floor else values - self.bound
        return gap / (self.bound or 1.0)

    def p_values(self, grid: Grid, clip: float, aim: float) -> F64:
        """P-values (L, A) of "in expectation, this wish is not kept".

        Parameters
        ----------
        grid : Grid
        clip : float
            Costs count at most as `clip` times their budget.
        aim : float
            The p-value to aim for (:func:`cr2fast.evaluation.bounds.betting_p`).
        """
        queries, n = grid.queries, len(grid.queries)
        correct = queries.by_model["accuracy"]
        exact = bool(np.isin(correct, (0, 1)).all())
        big = correct[:, grid.big_model[1]].astype(np.float64)
        out = []
        for i in range(len(grid.lams)):
            if self.name == "min_accuracy":
                wrong = 1 - queries.line("accuracy", i)
                if exact:
                    out.append(at_most_p(wrong.sum(axis=-1).astype(int), n, 1 - self.bound))
                else:
                    out.append(bounded_p(wrong, 1 - self.bound, aim))
            elif self.name == "relative_accuracy":
                # (r y_big - y + 1) / (1 + r) lies in [0, 1]; its mean is 1 / (1 + r) at the bound.
                r = self.asked
                losses = (r * big - queries.line("accuracy", i) + 1) / (1 + r)
                out.append(bounded_p(losses, 1 / (1 + r), aim))
            elif self.name == "max_latency_p95_s":
                late = (queries.line("latency_s", i) > self.bound).sum(axis=-1)
                out.append(at_most_p(late, n, _TAIL))
            else:
                most = clip * self.bound
                losses = np.minimum(queries.line(self.figure, i), most) / most
                out.append(bounded_p(losses, 1 / clip, aim))
        return np.array(out)


def wishes_of(asked: Mapping[str, float | None], grid: Grid) -> tuple[Wish, ...]:
    """The wishes that were given, checked.

    Raises
    ------
    Cr2Error
        None is given; NaN, infinite or negative; an accuracy above 1; of a figure that the cost
        table does not know.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    if not given:
        raise Cr2Error(f"choose: expected at least one of {', '.join(_WISHES)}, got none")
    out = []
    for name, value in given.items():
        figure = _WISHES[name][0]
        expected = {
            "min_accuracy": "a number from 0 to 1",
            "relative_accuracy": "a positive number, such as 0.9 for 90 % of the big model's",
        }.get(name, "a number, at least 0")
        number = real(value, name, expected)
        good = number > 0 if name == "relative_accuracy" else number >= 0
        if not (good and np.isfinite(number)) or (name == "min_accuracy" and number > 1):
            raise Cr2Error(f"{name}: expected {expected}, got {shown(value)}")
        if np.isnan(grid.figures[figure]).all():
            raise Cr2Error(
                f"{name}: expected a cost table with {_LACKING[figure]}, got one without; leave "
                f"{name} out, or fit with a table that has them"
            )
        bound = number
        if name == "relative_accuracy":
            mean = float(np.mean(grid.queries.by_model["accuracy"][:, grid.big_model[1]]))
            bound = number * mean
        out.append(Wish(name, number, bound))
    return tuple(out)
