"""One frozen router, the queries outside training split anew many times: the mean risk is alpha."""

from __future__ import annotations

import numpy as np

import cr2fast
from cr2fast import _core


def check_mean_risk(router, table, parts, lams, alphas, *, lengths, judge, draws, seed):
    """Assert it, above and below; returns how many (lam, alpha) cells were tight enough to test below.

    `parts` are the splits that did not train the router; the first gives the calibration size N.
    """
    where = {q: i for i, q in enumerate(table.query_ids)}
    pool = table.take([where[q] for part in parts for q in part.query_ids])
    alphas, n = np.array(alphas), len(parts[0])
    states = router.costs.sample_states(len(pool), seed)
    c = router.decision_costs(pool, states, lengths)
    p = router.judged_accuracies(pool, judge)
    prefers = _core.choice_margins(p, c, lams) < 0
    margins = router.margins(pool.embeddings, lams)
    rng = np.random.default_rng(seed)
    risks = []
    for _ in range(draws):
        order = rng.permutation(len(pool))
        a, b = order[:n], order[n:]
        tau = cr2fast.crc_thresholds(margins[:, a], prefers[:, a], alphas)
        risks.append(cr2fast.empirical_risk(margins[:, b], prefers[:, b], tau))
    # Splits of one pool are dependent: forty independent ones are a cautious count for the error.
    mean, error = np.mean(risks, axis=0), np.std(risks, axis=0) / np.sqrt(40)
    assert (mean <= alphas + 4 * error).all(), mean
    # Where too few queries prefer the edge, accepting all of them is right and far below alpha.
    enough = prefers.mean(axis=1)[:, None] > 2 * alphas
    assert (mean >= alphas - 2 / (n + 1) - 4 * error)[enough].all(), mean
    return int(enough.sum())
