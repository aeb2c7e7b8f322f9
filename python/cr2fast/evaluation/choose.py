"""The best operating point that keeps what a user wishes.

In: what an evaluation found on a validation split, wishes, perhaps a delta. Out:
:class:`OperatingPoint`, or :class:`InfeasibleWishError`, which names the wish that binds and the
nearest point.

**Best.** Where an accuracy is wished for, the point with the least mean normalised cost that keeps
all wishes; where only budgets are, the most accurate one. Ties go to the other of the two, then to
the lower alpha.

**With delta**, the wishes are promises about expectations, tested at every point
(:mod:`cr2fast.evaluation.bounds`), and only points at which all tests pass can be chosen. A point
passes when its largest p-value does: "some wish is not kept here" is then rejected. Latency, energy
and dollars have no upper bound of their own, so the promise is about costs cut at `clip` times
their budget; a query beyond that counts as so much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cr2fast._core import BudgetError, Cr2Error
from cr2fast._util.checks import fraction, real, shown
from cr2fast.calibration.point import Expected, OperatingPoint, is_about_accuracy
from cr2fast.evaluation.bounds import binomial_cdf, holm
from cr2fast.evaluation.intervals import binomial_interval
from cr2fast.evaluation.queries import F64, Bools, Grid
from cr2fast.evaluation.wishes import Wish, wishes_of

# The two-sided 95 % of a normal distribution.
_Z = 1.959963984540054


class InfeasibleWishError(BudgetError):
    """No calibrated point keeps the wishes.

    Attributes
    ----------
    binding : tuple of str
        The wishes without which a point keeps the others; all, where it takes several.
    nearest : (float, float)
        (lam, alpha) of the point that fails by the least part of a bound.
    """

    def __init__(self, words: str, binding: Sequence[str], nearest: tuple[float, float]) -> None:
        super().__init__(words)
        self.binding, self.nearest = tuple(binding), nearest

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.binding, self.nearest)


def choose(
    grid: Grid, asked: Mapping[str, float | None], delta: float | None, clip: float
) -> OperatingPoint:
    """Choose; see :meth:`cr2fast.Evaluation.choose`."""
    wishes = wishes_of(asked, grid)
    level = _checked(delta, clip, wishes)
    kept = np.stack([w.kept(grid.figures[w.figure]) for w in wishes])
    feasible: Bools = np.asarray(kept.all(axis=0))
    if not feasible.any():
        raise _infeasible(grid, wishes, kept)
    if level is not None:
        aim = level / feasible.size
        p = np.stack([w.p_values(grid, clip, aim) for w in wishes])
        promised = holm(p.max(axis=0), level) & feasible
        if not promised.any():
            raise _unpromised(grid, wishes, p, feasible, level)
        feasible = promised
    i, j = _best(grid, feasible, is_about_accuracy({w.name: 0 for w in wishes}))
    return OperatingPoint(
        lam=float(grid.lams[i]),
        alpha=float(grid.alphas[j]),
        wishes={w.name: w.asked for w in wishes},
        expected=tuple(_expected(grid, i, j)),
        n=len(grid.queries),
        candidates=int(feasible.sum()),
        points=feasible.size,
        delta=level,
        statement=_statement(grid, wishes, level, clip),
        router=grid.router,
        content=grid.queries.content,
    )


def _checked(delta: float | None, clip: float, wishes: tuple[Wish, ...]) -> float | None:
    if not (real(clip, "clip") > 1 and np.isfinite(clip)):
        raise Cr2Error(f"clip: expected a finite number above 1, got {shown(clip)}")
    if delta is None:
        return None
    level = fraction(delta, "delta")
    for wish in wishes:
        if wish.bound == 0 and not wish.is_floor:
            raise Cr2Error(
                f"{wish.name}: expected a positive budget with delta, got 0: no sample can promise "
                f"that a mean is 0"
            )
    return level


def _best(grid: Grid, feasible: Bools, cheapest: bool) -> tuple[int, int]:
    """The best of the feasible points, (i, j)."""
    i, j = np.nonzero(feasible)
    cost, accuracy = grid.figures["cost"][i, j], grid.figures["accuracy"][i, j]
    first, second = (cost, -accuracy) if cheapest else (-accuracy, cost)
    at = np.lexsort((grid.alphas[j], second, first))[0]
    return int(i[at]), int(j[at])


def _expected(grid: Grid, i: int, j: int) -> list[Expected]:
    """Figures of one point, with 95 % intervals."""
    queries, n = grid.queries, len(grid.queries)
    out = []
    for name in ("accuracy", "relative_accuracy", "latency_s", "energy_j", "usd", "cost"):
        if name == "relative_accuracy":
            out.append(_relative(grid, i, j))
            continue
        values = queries.of(name, i, j)
        if np.isnan(values).any():
            continue
        mean = float(grid.figures[name][i, j])
        if name == "accuracy" and np.isin(values, (0, 1)).all():
            out.append(Expected(name, mean, *binomial_interval(round(values.sum()), n)))
            continue
        half = _Z * float(values.std(ddof=1 if n > 1 else 0)) / np.sqrt(n)
        high = min(mean + half, 1.0) if name == "accuracy" else mean + half
        out.append(Expected(name, mean, max(mean - half, 0.0), high))
        if name == "latency_s":
            value = float(grid.figures["latency_p95_s"][i, j])
            out.append(Expected("latency_p95_s", value, *_quantile_interval(values, 0.95)))
    local = round(float(grid.local_rate[i, j]) * n)
    false = int(grid.false_acceptances[i, j])
    out.insert(2, Expected("local_rate", local / n, *binomial_interval(local, n)))
    out.insert(3, Expected("risk", false / n, *binomial_interval(false, n)))
    return [Expected(e.name, *map(float, e[1:])) for e in out if np.isfinite(e.value)]


def _relative(grid: Grid, i: int, j: int) -> Expected:
    """The accuracy as a fraction of the big model's: a ratio of means, by linearisation."""
    y = grid.queries.of("accuracy", i, j)
    big = grid.queries.by_model["accuracy"][:, grid.big_model[1]].astype(np.float64)
    if not big.any():
        return Expected("relative_accuracy", np.nan, np.nan, np.nan)
    ratio = float(y.mean() / big.mean())
    residual = (y - ratio * big) / big.mean()
    half = _Z * float(residual.std()) / np.sqrt(len(y))
    return Expected("relative_accuracy", ratio, max(ratio - half, 0.0), ratio + half)


def _quantile_interval(values: F64, q: float) -> tuple[float, float]:
    """95 % interval of a quantile, between order statistics, for any distribution."""
    n, ordered = len(values), np.sort(values)
    cdf = binomial_cdf(n, q)
    low = int(np.searchsorted(cdf, 0.025)) - 1
    high = int(np.searchsorted(cdf, 0.975))
    return float(ordered[max(low, 0)]), float(ordered[min(high, n - 1)])


def _at(grid: Grid, index: np.intp | int) -> tuple[float, float]:
    i, j = divmod(int(index), len(grid.alphas))
    return float(grid.lams[i]), float(grid.alphas[j])


def _named(point: tuple[float, float]) -> str:
    return f"lam={point[0]:g}, alpha={point[1]:g}"


def _infeasible(grid: Grid, wishes: tuple[Wish, ...], kept: Bools) -> InfeasibleWishError:
    """The error of wishes that no point keeps."""
    values = [grid.figures[w.figure] for w in wishes]
    worst = np.stack([w.violation(v) for w, v in zip(wishes, values, strict=True)]).max(axis=0)
    near = int(worst.argmin())
    alone = [k for k in range(len(wishes)) if not kept[k].any()]
    said, binding = [], alone
    if not alone:
        # Each can be kept, but not all: without which one can the others?
        binding = [
            k for k in range(len(wishes)) if np.delete(kept, k, axis=0).all(axis=0).any()
        ] or list(range(len(wishes)))
    for k in binding:
        others = np.delete(kept, k, axis=0).all(axis=0)
        room = others if not alone and others.any() else np.ones_like(others)
        sign = -1 if wishes[k].is_floor else 1
        best = int(np.where(room, sign * values[k], np.inf).argmin())
        where = "with the other wishes kept, " if not alone and others.any() else ""
        said.append(
            f"{wishes[k].name} ({wishes[k].words()}): {where}the nearest is "
            f"{wishes[k].words(float(values[k].flat[best]))} at {_named(_at(grid, best))}"
        )
    at_near = ", ".join(w.words(float(v.flat[near])) for w, v in zip(wishes, values, strict=True))
    names = [wishes[k].name for k in binding]
    return InfeasibleWishError(
        f"choose: expected wishes that one of the {kept[0].size} calibrated points keeps on these "
        f"{len(grid.queries)} queries, got some that none does; what binds is {'; '.join(said)}. "
        f"The nearest point to all is {_named(_at(grid, near))}, with {at_near}",
        names,
        _at(grid, near),
    )


def _unpromised(
    grid: Grid, wishes: tuple[Wish, ...], p: F64, feasible: Bools, delta: float
) -> InfeasibleWishError:
    """The error of wishes that a point keeps on these queries and none can promise."""
    worst = np.where(feasible, p.max(axis=0), np.inf)
    near = int(worst.argmin())
    binding = wishes[int(p.reshape(len(wishes), -1)[:, near].argmax())]
    figure = float(grid.figures[binding.figure].flat[near])
    return InfeasibleWishError(
        f"choose: no point can be promised to keep the wishes with probability {1 - delta:g} on "
        f"{len(grid.queries)} queries; what binds is {binding.name}: {_named(_at(grid, near))} is "
        f"the nearest, where {binding.words(figure)} was found and {binding.words()} is wished "
        f"for (p-value {worst.flat[near]:.2g}, needed {delta / worst.size:.2g}); choose on more "
        f"queries, ask for less, raise delta, or calibrate fewer points",
        (binding.name,),
        _at(grid, near),
    )


def _statement(grid: Grid, wishes: tuple[Wish, ...], delta: float | None, clip: float) -> str:
    n = len(grid.queries)
    relative = [w for w in wishes if w.name == "relative_accuracy"]
    about = "".join(
        f" {100 * w.asked:.4g} % of the accuracy of {grid.big_model[0]} is {w.bound:.4g} here."
        for w in relative
    )
    if delta is None:
        return f"Kept on these {n} queries; no promise about others (a delta makes one).{about}"
    listed = "; ".join(
        f"accuracy at least {100 * w.asked:.4g} % of {grid.big_model[0]}'s"
        if w.name == "relative_accuracy"
        else w.words()
        for w in wishes
    )
    text = (
        f"With probability at least {1 - delta:g} over validation sets of {n} queries drawn "
        f"independently from the distribution of future ones, in expectation over these: {listed}."
    )
    if any(w.name in ("max_latency_s", "max_energy_j", "max_usd") for w in wishes):
        text += f" Means are of costs cut at {clip:g} times their budget."
    return f"{text} Void if the query mix or the link distribution moves.{about}"
