"""On real outcomes: one router, many re-splits of calibration and test, at full size."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from cr2fast.datasets import load_folder
from testing.resplits import check_mean_risk


@pytest.fixture(scope="module")
def real(data_dir):
    problem = load_folder(data_dir)
    parts = problem.table.split()
    options = {"teacher_epochs": 4, "gate_epochs": 6, "lam_range": (0.1, 20.0)}
    router = cr2fast.fit(parts[0], problem.costs, progress=False, **options)
    return problem, parts, router


def test_parameter_counts_and_split_sizes(real):
    _, parts, router = real
    assert router.parameters == {"gate": 104_706, "teacher": 398_340}
    assert [len(p) for p in parts] == [7219, 2407, 2406]


@pytest.mark.parametrize("lengths", ["predicted", "known"])
@pytest.mark.parametrize("judge", ["teacher", "outcomes"])
def test_mean_risk_over_resplits_is_alpha(real, lengths, judge):
    problem, parts, router = real
    tight = check_mean_risk(
        router,
        problem.table,
        parts[1:],
        cr2fast.default_lams()[::4],
        [0.002, 0.005, 0.01, 0.02, 0.05],
        lengths=lengths,
        judge=judge,
        draws=200,
        seed=5,
    )
    assert tight > 15


def test_a_smoother_teaches_better_than_the_answers(real):
    """Cross-entropy on half of the training split that neither recipe saw, paired by query."""
    problem, parts, _ = real
    learn, held = parts[0].split((0.5, 0.5), seed=1)

    def losses(recipe):
        options = {"recipe": recipe, "gate_epochs": 1, "progress": False}
        p = cr2fast.fit(learn, problem.costs, **options).accuracies(held.embeddings)
        return -np.log(np.where(held.correct, p, 1 - p).astype(float)).mean(axis=1)

    gain = losses("paper") - losses("smoothed")
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))


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
