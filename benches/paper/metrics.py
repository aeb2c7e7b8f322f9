"""From choices to numbers (all on the queries that some model answers, unless said).

In: choices (P, N) of a method's P operating points, and the truth. Out: accuracy and cost of each
point; the least cost that reaches an accuracy; hulls and areas; bootstrap replicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cr2fast.evaluation import upper_hull

TARGETS = 8
AREA = (0.2, 0.95)


@dataclass(frozen=True)
class Points:
    """Operating points: labels, and per-query correctness and cost (P, N) of answerable queries."""

    labels: list
    right: np.ndarray
    cost: np.ndarray

    @classmethod
    def of(cls, labels, choices, truth):
        """From choices (P, N) of model indices."""
        rows = np.flatnonzero(truth.answerable)
        picked = choices[:, rows]
        right = truth.correct[rows, picked].astype(np.float32)
        return cls(labels, right, truth.cost[rows, picked].astype(np.float32))

    def with_ends(self, truth):
        """The same, and two points more: only the device's model, and only the unit model."""
        rows = np.flatnonzero(truth.answerable)
        alone = [0, truth.reference]
        right = truth.correct[np.ix_(rows, alone)].T.astype(np.float32)
        cost = truth.cost[np.ix_(rows, alone)].T.astype(np.float32)
        return Points(
            [*self.labels, "device alone", "reference alone"],
            np.concatenate([self.right, right]),
            np.concatenate([self.cost, cost]),
        )

    def means(self):
        """(P,) accuracy, (P,) cost."""
        return self.right.mean(axis=1, dtype=np.float64), self.cost.mean(axis=1, dtype=np.float64)


def targets(truth):
    """Eight accuracies, from the best other model + .03 to the unit model - .01.

    Where the unit model is hardly better than another: from the device's model to it or, where
    that is better still, from the worst model to the best.
    """
    alone = truth.correct[truth.answerable].mean(axis=0)
    high = alone[truth.reference] - 0.01
    low = np.delete(alone, truth.reference).max() + 0.03
    if low >= high:
        low = alone[0]
    if low >= high:
        low, high = alone.min(), alone.max()
    return np.linspace(low, high, TARGETS)


def ends(truth):
    """(accuracy, cost) of the device's model alone and of the reference alone."""
    rows = truth.answerable
    return [
        (float(truth.correct[rows, m].mean()), float(truth.cost[rows, m].mean()))
        for m in (0, truth.reference)
    ]


def matched(accuracy, cost, at):
    """Least cost among points with accuracy >= each target: (..., P) and (T,) to (..., T).

    The unit model reaches every target at cost 1, and anyone can always take only that model.
    """
    reaches = accuracy[..., None, :] >= at[:, None]
    return np.where(reaches, cost[..., None, :], 1.0).min(axis=-1, initial=1.0)


def hull_cost(accuracy, cost, at):
    """Cost at which the upper hull (random mixing of two points) reaches each target, (T,)."""
    hull = upper_hull(np.append(cost, 1.0), np.append(accuracy, max(accuracy.max(), at[-1])))
    return np.interp(at, hull[:, 1], hull[:, 0])


def hull_with(accuracy, cost, ends):
    """Upper hull (K, 2) of the points and of `ends`, (accuracy, cost) of only the device's model
    and of only the unit model, which anyone can take: every hull spans every cost between them.
    """
    return upper_hull(
        np.concatenate([cost, [c for _, c in ends]]),
        np.concatenate([accuracy, [a for a, _ in ends]]),
    )


def area(accuracy, cost, ends):
    """Mean accuracy of the hull over the cost range AREA."""
    hull = hull_with(accuracy, cost, ends)
    grid = np.linspace(*AREA, 301)
    return float(np.interp(grid, hull[:, 0], hull[:, 1]).mean())


def mix_at_cost(points, level):
    """Weights (P,) of the hull at a mean cost: of at most two points that mix to it."""
    accuracy, cost = points.means()
    hull = upper_hull(cost, accuracy)
    at = float(np.clip(level, hull[0, 0], hull[-1, 0]))
    right = int(np.clip(np.searchsorted(hull[:, 0], at), 1, max(len(hull) - 1, 1)))
    weights = np.zeros(len(cost))
    ends = hull[[right - 1, right]] if len(hull) > 1 else hull[[0, 0]]
    width = ends[1, 0] - ends[0, 0]
    share = (at - ends[0, 0]) / width if width > 0 else 0.0
    for (x, y), w in zip(ends, (1 - share, share), strict=True):
        weights[np.flatnonzero((cost == x) & (accuracy == y))[0]] += w
    return weights


def bootstrap(points, at, draws):
    """Matched costs (B, T) of resampled queries; `draws` (B, N) counts, shared by all methods."""
    n = draws.sum(axis=1, keepdims=True)
    accuracy = draws @ points.right.T / n
    cost = draws @ points.cost.T / n
    return matched(accuracy, cost, at)


def draw_counts(n, count, seed):
    """(B, N) float32: how often each query is in each resample."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float32)
