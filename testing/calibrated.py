"""The slow twin of a calibration: plain NumPy, sorted, every array whole.

In: a fitted router and a split. Out: what ``Router.calibrate`` should keep and report.
"""

from __future__ import annotations

from math import lgamma

import numpy as np

from cr2fast import _core
from cr2fast._util import seeds


def largest_count(n, p, level):
    """Largest k with P(X <= k) <= `level` for X binomial(n, p); None where even 0 is too likely."""
    x = np.arange(n + 1)
    log_gamma = np.array([lgamma(v + 1) for v in range(n + 1)])
    log_choose = lgamma(n + 1) - log_gamma - log_gamma[::-1]
    fits = np.exp(log_choose + x * np.log(p) + (n - x) * np.log1p(-p)).cumsum() <= level
    return int(fits.sum()) - 1 if fits[0] else None


def allowed_counts(n, alphas, lams, delta):
    """False acceptances allowed, one per risk level; None where a level is infeasible."""
    if delta is None:
        return tuple(_core.allowed_false_acceptances(a, n) for a in alphas)
    return tuple(largest_count(n, a, delta / (lams * len(alphas))) for a in alphas)


def thresholds_by_count(margins, prefers_edge, allowed):
    """Thresholds (L, A): the least float above the (k+1)-th largest margin where r = 1."""
    out = np.full((len(margins), len(allowed)), np.inf, dtype=np.float32)
    for i, (row, r) in enumerate(zip(margins, prefers_edge, strict=True)):
        top = np.sort(row[r])[::-1]
        for j, k in enumerate(allowed):
            if k is not None:
                above = np.nextafter(top[k], np.float32(np.inf)) if k < len(top) else -np.inf
                out[i, j] = above
    return out


def order_statistics(margins):
    """The order statistics (L, Q) that are kept of margins (L, N)."""
    n = margins.shape[1]
    q = min(n, 255)
    ranks = np.rint(np.arange(1, q + 1) * (n + 1) / (q + 1)).astype(int)
    return np.sort(margins, axis=1)[:, ranks - 1]


def calibrated(
    router, split, lams, alphas, *, judge="teacher", lengths="predicted", delta=None, seed=0
):
    """What a calibration keeps (thresholds, quantiles) and reports (allowed, risk, local rate)."""
    n = len(split)
    margins = router.margins(split.embeddings, lams)
    prefers = prefers_edge(router, split, lams, judge=judge, lengths=lengths, seed=seed)
    allowed = allowed_counts(n, alphas, len(lams), delta)
    thresholds = thresholds_by_count(margins, prefers, allowed)
    local = margins[:, None, :] >= thresholds[:, :, None]
    return {
        "thresholds": thresholds,
        "quantiles": order_statistics(margins),
        "allowed": allowed,
        "empirical_risk": (local & prefers[:, None]).sum(axis=2) / n,
        "local_rate": local.sum(axis=2) / n,
    }


def prefers_edge(router, split, lams, *, judge="teacher", lengths="predicted", seed=0):
    """r (L, N): whether the judge's full-information choice is an edge model."""
    states = router.costs.sample_states(len(split), seeds.CALIBRATION + seed)
    n_output = split.n_output_tokens
    if lengths == "predicted":
        n_output = router.predict_lengths(split.embeddings, split.n_input_tokens)
    c = router.costs.cost(split.n_input_tokens, n_output, states).astype(np.float64)
    p = router.accuracies(split.embeddings)
    p = (p if judge == "teacher" else split.correct).astype(np.float64)
    utility = p[None] - np.asarray(lams)[:, None, None] * c[None]
    prefers: np.ndarray = utility[:, :, 0] < utility[:, :, 1:].max(axis=2)
    return prefers
