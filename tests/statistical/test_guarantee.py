"""The guarantee by simulation: known score laws, thousands of calibration draws.

For draws of N calibration samples the realised risk, known exactly here, must average at most alpha,
within Monte-Carlo error, and, where scores are continuous and enough samples prefer the edge, not
below alpha - 2/(N+1): the rule is not needlessly careful.
"""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from testing.resplits import check_mean_risk

DRAWS = 4000
ALPHAS = (0.05, 0.1, 0.2)


def realised(rng, n, alphas, *, ties, edge_rate=0.6):
    """Mean and standard error of the true risk over calibration draws, (A,) each.

    r ~ Bernoulli(edge_rate); s is uniform, pushed towards 0 where r = 1: P(s > t | r = 1) = (1-t)^2.
    With ties, s is ten times that, rounded up.
    """
    prefers = rng.random((DRAWS, n)) < edge_rate
    s = rng.random((DRAWS, n))
    s = np.where(prefers, 1 - np.sqrt(1 - s), s)
    if ties:
        s = np.ceil(s * 10)
    scores = s.astype(np.float32)
    tau = cr2fast.crc_thresholds(scores, prefers, alphas, on_infeasible="defer").astype(float)
    if ties:
        # ceil(10 u) >= tau is u > (ceil(tau) - 1) / 10.
        tau = (np.ceil(np.clip(tau, 0, 11)) - 1) / 10
    risk = edge_rate * (1 - np.clip(tau, 0, 1)) ** 2
    return risk.mean(0), risk.std(0) / np.sqrt(DRAWS)


@pytest.mark.parametrize("n", [20, 99, 100, 1000])
@pytest.mark.parametrize("ties", [False, True])
def test_mean_realised_risk_is_at_most_alpha_and_the_rule_is_tight(n, ties):
    mean, error = realised(np.random.default_rng(n), n, ALPHAS, ties=ties)
    for alpha, m, e in zip(ALPHAS, mean, error, strict=True):
        if alpha < 1 / (n + 1):
            assert m == 0
            continue
        assert m <= alpha + 4 * e, (alpha, m, e)
        if not ties:
            assert m >= alpha - 2 / (n + 1) - 4 * e, (alpha, m, e)


@pytest.mark.parametrize("alpha", [0.002, 0.005, 0.01])
def test_small_levels_at_the_size_of_the_real_calibration_set(alpha):
    mean, error = realised(np.random.default_rng(1), 2407, (alpha,), ties=False)
    assert alpha - 2 / 2408 - 4 * error[0] <= mean[0] <= alpha + 4 * error[0]


def test_the_simulation_can_fail():
    """A rule without the finite-sample correction breaks the bound, and this test sees it."""
    rng = np.random.default_rng(2)
    n, alpha, edge_rate = 20, 0.1, 0.6
    prefers = rng.random((DRAWS, n)) < edge_rate
    s = np.where(prefers, 1 - np.sqrt(1 - rng.random((DRAWS, n))), rng.random((DRAWS, n)))
    masked = np.sort(np.where(prefers, s, -1.0), axis=1)
    # Empirical rule: accept as long as d/N <= alpha, so up to alpha N false acceptances.
    tau = masked[:, -(int(alpha * n) + 1)]
    risk = edge_rate * (1 - np.clip(tau, 0, 1)) ** 2
    assert risk.mean() > alpha + 4 * risk.std() / np.sqrt(DRAWS)


def test_whole_router_on_a_synthetic_world(fitted, problem, splits):
    """Re-split calibration and test many times, all else frozen: the mean test risk is alpha."""
    tight = check_mean_risk(
        fitted,
        problem.table,
        splits[1:],
        [0.2, 0.55, 1.0, 2.2],
        ALPHAS,
        lengths="predicted",
        judge="teacher",
        draws=400,
        seed=3,
    )
    assert tight > 5
