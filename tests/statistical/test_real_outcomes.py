"""On real outcomes: one router, many re-splits of calibration and test, at full size."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from cr2fast import _core
from cr2fast.datasets import load_folder


@pytest.fixture(scope="module")
def real(data_dir):
    problem = load_folder(data_dir)
    parts = problem.table.split()
    router = cr2fast.fit(parts[0], problem.costs, progress=False, teacher_epochs=4, gate_epochs=6)
    return problem, parts, router


def test_parameter_counts_and_split_sizes(real):
    _, parts, router = real
    assert router.parameters == {"gate": 104_706, "teacher": 398_340}
    assert [len(p) for p in parts] == [7219, 2407, 2406]


@pytest.mark.parametrize("lengths", ["predicted", "known"])
@pytest.mark.parametrize("reference", ["teacher", "outcomes"])
def test_mean_risk_over_resplits_is_alpha(real, lengths, reference):
    problem, parts, router = real
    where = {q: i for i, q in enumerate(problem.table.query_ids)}
    pool = problem.table.take([where[q] for part in parts[1:] for q in part.query_ids])
    alphas = np.array([0.002, 0.005, 0.01, 0.02, 0.05])
    lams = cr2fast.default_lams()[::4]
    states = router.costs.sample_states(len(pool), 5)
    c = router.decision_costs(pool, states, lengths)
    prefers = _core.reference_margins(router.reference_accuracies(pool, reference), c, lams) < 0
    scores = router.margins(pool.embeddings, lams)
    rng = np.random.default_rng(0)
    risks = []
    for _ in range(200):
        order = rng.permutation(len(pool))
        a, b = order[:2407], order[2407:]
        tau = cr2fast.crc_thresholds(scores[:, a], prefers[:, a], alphas)
        risks.append(cr2fast.empirical_risk(scores[:, b], prefers[:, b], tau))
    mean, error = np.mean(risks, axis=0), np.std(risks, axis=0) / np.sqrt(40)
    assert (mean <= alphas + 4 * error).all(), mean
    enough = prefers.mean(axis=1)[:, None] > 2 * alphas
    assert enough.sum() > 15
    assert (mean >= alphas - 2 / 2408 - 4 * error)[enough].all(), mean


def test_the_router_beats_mixing_models_at_random(real):
    """At matched cost it is more accurate than a random mix of the two extreme models."""
    problem, parts, router = real
    router.calibrate(parts[1], problem.costs)
    e = cr2fast.evaluate(router, parts[2], problem.costs)
    alone = e.baselines["alone"]
    (c0, a0), (c1, a1) = [(alone["cost"][k], alone["accuracy"][k]) for k in (0, 3)]
    mixed = a0 + (a1 - a0) * (e.cost - c0) / (c1 - c0)
    middle = (e.cost > 0.3) & (e.cost < 0.8)
    assert middle.sum() > 5
    assert (e.accuracy - mixed)[middle].mean() > 0
