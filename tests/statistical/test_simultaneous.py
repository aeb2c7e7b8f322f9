"""Simultaneous thresholds and the drift check, by simulation with known laws."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from cr2fast.calibration import allowed_counts, drift
from testing.calibrated import order_statistics, thresholds_by_count

DRAWS = 3000
ALPHAS = np.array([0.02, 0.05, 0.1])
# P(r = 1) at each of six cost weights.
EDGE_RATES = np.array([0.9, 0.7, 0.5, 0.3, 0.15, 0.05])
DELTA = 0.1


def violations(rng, n, thresholds_of, *, shared):
    """How often, over calibration draws, the true risk exceeds alpha in some cell, and in a cell.

    At each cost weight r ~ Bernoulli(rate) and s is uniform where r = 1, so the risk of a threshold
    t is rate (1 - t). With `shared`, all cost weights see one uniform per query: as dependent as can
    be.
    """
    some = cells = 0.0
    shape = (1 if shared else len(EDGE_RATES), n)
    for _ in range(DRAWS):
        prefers = rng.random(shape) < EDGE_RATES[:, None]
        scores = np.broadcast_to(rng.random(shape), prefers.shape).astype(np.float32)
        tau = thresholds_of(np.ascontiguousarray(scores), np.ascontiguousarray(prefers))
        risk = EDGE_RATES[:, None] * (1 - np.clip(tau.astype(float), 0, 1))
        broken = risk > ALPHAS + 1e-6
        some += broken.any()
        cells += broken.mean()
    return some / DRAWS, cells / DRAWS


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n", [300, 2000])
def test_every_cell_holds_at_once_as_often_as_promised(n, shared):
    allowed = allowed_counts(n, ALPHAS.tolist(), len(EDGE_RATES), DELTA)

    def rule(scores, prefers):
        return thresholds_by_count(scores, prefers, allowed)

    rate, _ = violations(np.random.default_rng(n), n, rule, shared=shared)
    assert rate <= DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / DRAWS)
    # Not by deferring everything, and not for nothing: draws near the bound do happen.
    assert allowed[-1] > 0
    assert rate > 0.01 * DELTA


def test_the_marginal_rule_does_not_hold_at_once_and_this_sees_it():
    def rule(scores, prefers):
        return cr2fast.crc_thresholds(scores, prefers, ALPHAS, "defer")

    rate, cell = violations(np.random.default_rng(0), 300, rule, shared=False)
    assert rate > 0.9
    assert 0.2 < cell < 0.6


@pytest.mark.parametrize(("n", "live"), [(40, 30), (500, 200), (2400, 1000)])
def test_the_drift_check_raises_false_alarms_as_often_as_it_says(n, live):
    rng, level, trials = np.random.default_rng(n), 0.05, 2000
    alarms = 0
    for _ in range(trials):
        kept = order_statistics(rng.standard_normal((1, n)).astype(np.float32))[0]
        alarms += drift.check(rng.standard_normal(live), kept, n, 1.0, level).drifted
    error = np.sqrt(level * (1 - level) / trials)
    assert level * 0.5 < alarms / trials <= level + 3.5 * error


def test_ties_only_make_the_drift_check_more_careful():
    rng, level, trials = np.random.default_rng(1), 0.05, 1000
    alarms = 0
    for _ in range(trials):
        kept = order_statistics(rng.integers(0, 4, (1, 400)).astype(np.float32))[0]
        live = rng.integers(0, 4, 200).astype(float)
        alarms += drift.check(live, kept, 400, 1.0, level).drifted
    assert alarms / trials <= level


def test_the_drift_check_sees_a_small_shift():
    """A fifth of a standard deviation, a thousand queries: nearly always found."""
    rng, found = np.random.default_rng(2), 0
    for _ in range(200):
        kept = order_statistics(rng.standard_normal((1, 2400)).astype(np.float32))[0]
        found += drift.check(rng.standard_normal(1000) + 0.2, kept, 2400, 1.0, 0.01).drifted
    assert found > 190
