"""P-values of promises, and which of many promises may be made at once.

In: counts, or losses in [0, 1], of n queries drawn independently. Out: for each operating point the
chance of losses this low if its promise were false, and by Holm's rule the points whose promises
all hold with probability 1 - delta: *learn then test* (Angelopoulos, Bates, Candès, Jordan & Lei,
arXiv 2110.01052).

For 0/1 losses the p-value is the exact binomial tail. For losses in [0, 1] it is twice the lesser
of two: Hoeffding-Bentkus (Bates et al., arXiv 2101.02703, section 3.1), which knows the mean only,
and a bet against the null (Waudby-Smith & Ramdas, arXiv 2010.09686), which gains where losses vary
little, as costs do. Either is valid; twice the lesser is, by Bonferroni's inequality.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def binomial_cdf(n: int, p: float) -> F64:
    """P(Binomial(n, p) <= k) for k = 0 to n, (n + 1,)."""
    if not 0 < p < 1:
        at = 0 if p <= 0 else n
        return np.asarray(np.arange(n + 1) >= at, dtype=float)
    k = np.arange(n)
    ratios = np.log((n - k) / (k + 1)) + np.log(p) - np.log1p(-p)
    log_pmf = n * np.log1p(-p) + np.concatenate([[0.0], np.cumsum(ratios)])
    return np.asarray(np.minimum(np.cumsum(np.exp(log_pmf)), 1.0))


def at_most_p(counts: npt.NDArray[np.int64], n: int, rate: float) -> F64:
    """Exact p-values of "the rate is above `rate`", from counts of n 0/1 losses, any shape."""
    if rate >= 1:
        return np.zeros(counts.shape)
    return binomial_cdf(n, rate)[counts]


def hoeffding_bentkus_p(means: F64, n: int, level: float) -> F64:
    """P-values of "the mean is above `level`", from means of n losses in [0, 1], any shape.

    The lesser of Hoeffding's exp(-n h(mean, level)), h the Kullback-Leibler divergence of two
    coins, and Bentkus's e P(Binomial(n, level) <= ceil(n mean)).
    """
    low = np.minimum(means, level)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.where(low > 0, low * np.log(low / level), 0.0)
        divergence += np.where(low < 1, (1 - low) * np.log((1 - low) / (1 - level)), 0.0)
    # The sum of n numbers may come out a little above a whole number that it is.
    counts = np.ceil(n * means - 1e-9 * n).astype(int).clip(0, n)
    bentkus = np.e * binomial_cdf(n, level)[counts]
    return np.asarray(np.minimum(np.minimum(np.exp(-n * divergence), bentkus), 1.0))


def betting_p(losses: F64, level: float, aim: float) -> F64:
    """P-values of "the mean is at least `level`", from losses (..., n) in [0, 1], in any order.

    Wealth starts at 1 and is multiplied by 1 + bet (level - loss) query by query; under the null
    it does not grow on average, so it ever reaches 1/p with probability at most p (Ville). A bet
    is sqrt(2 log(1/aim) / (n variance so far)), at most 1: of the past only, so any is valid.

    Parameters
    ----------
    losses : ndarray, (..., n)
    level : float
        In (0, 1).
    aim : float
        The p-value that bets aim for.
    """
    n = losses.shape[-1]
    # What is exchangeable becomes a random order, whatever order the rows came in.
    losses = losses[..., np.random.default_rng(0).permutation(n)]
    t = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(losses, axis=-1)) / (t + 1)
    variance = (0.25 + np.cumsum((losses - mean) ** 2, axis=-1)) / (t + 1)
    before = np.concatenate([np.full((*losses.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)
    bets = np.minimum(1.0, np.sqrt(2 * np.log(1 / aim) / (n * before)))
    wealth = np.cumsum(np.log1p(bets * (level - losses)), axis=-1).max(axis=-1)
    return np.asarray(np.exp(-np.maximum(wealth, 0.0)))


def bounded_p(losses: F64, level: float, aim: float) -> F64:
    """P-values of "the mean is above `level`" from losses (..., n) in [0, 1]."""
    if level >= 1:
        return np.zeros(losses.shape[:-1])
    if level <= 0:
        return np.ones(losses.shape[:-1])
    rough = hoeffding_bentkus_p(losses.mean(axis=-1), losses.shape[-1], level)
    return np.asarray(np.minimum(2 * np.minimum(rough, betting_p(losses, level, aim)), 1.0))


def holm(p_values: F64, delta: float) -> npt.NDArray[np.bool_]:
    """Which nulls to reject so that a true one is among them with probability at most delta.

    Holm's step-down form of Bonferroni's rule: the k-th least of J p-values must be at most
    delta / (J - k + 1), and so must all before it. It needs no order of the points in advance and
    holds however they depend on each other.
    """
    flat = p_values.ravel()
    order = np.argsort(flat, kind="stable")
    good = flat[order] <= delta / np.arange(flat.size, 0, -1)
    kept = flat.size if good.all() else int(good.argmin())
    rejected = np.zeros(flat.size, dtype=bool)
    rejected[order[:kept]] = True
    return rejected.reshape(p_values.shape)
