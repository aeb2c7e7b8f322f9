"""Slow, plain-NumPy twins of the p-values and the choice of :meth:`cr2fast.Evaluation.choose`."""

from __future__ import annotations

from math import comb, exp, log, sqrt

import numpy as np


def binomial_tail(k, n, p):
    """P(Binomial(n, p) <= k), by its definition."""
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def hoeffding_bentkus(losses, level):
    """Bates et al., arXiv 2101.02703, equations 5 and 6."""
    n, mean = len(losses), float(np.mean(losses))
    a = min(mean, level)
    h = (a * log(a / level) if a > 0 else 0) + (
        (1 - a) * log((1 - a) / (1 - level)) if a < 1 else 0
    )
    bentkus = exp(1) * binomial_tail(int(np.ceil(round(n * mean, 9))), n, level)
    return min(exp(-n * h), bentkus, 1.0)


def betting(losses, level, aim):
    """Waudby-Smith & Ramdas, arXiv 2010.09686, as in RCPS: one query after the other."""
    n = len(losses)
    wealth, best, total, squares, variance = 1.0, 1.0, 0.5, 0.25, 0.25
    for t, i in enumerate(np.random.default_rng(0).permutation(n), start=1):
        bet = min(1.0, sqrt(2 * log(1 / aim) / (n * variance)))
        wealth *= 1 + bet * (level - losses[i])
        best = max(best, wealth)
        total += losses[i]
        squares += (losses[i] - total / (t + 1)) ** 2
        variance = squares / (t + 1)
    return 1 / best


def holm(p_values, delta):
    """Step down from the least p-value."""
    left, out = dict(enumerate(p_values)), [False] * len(p_values)
    while left:
        at = min(left, key=left.get)
        if left[at] > delta / len(left):
            break
        out[at] = True
        del left[at]
    return out


def best(figures, kept, cheapest):
    """The best of the points that are kept, or None: a plain loop."""
    found = None
    for i, j in np.ndindex(kept.shape):
        if kept[i, j]:
            cost, accuracy = figures["cost"][i, j], figures["accuracy"][i, j]
            key = (cost, -accuracy, j) if cheapest else (-accuracy, cost, j)
            if found is None or key < found[0]:
                found = (key, (i, j))
    return found and found[1]
