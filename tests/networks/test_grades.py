"""Graded answers, in [0, 1]: a soft label the method learns from, judges by and counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import cr2fast
from testing.oracle import margin

QUICK = {
    "hidden": 16,
    "teacher_epochs": 8,
    "gate_epochs": 2,
    "batch": 64,
    "lr": 3e-3,
    "progress": False,
}


@pytest.fixture(scope="module")
def graded(problem):
    """The synthetic problem with the models' true probabilities as grades."""
    return replace(problem.table, correct=problem.probabilities.astype(np.float32))


def test_grades_of_zero_and_one_are_the_answers(problem, splits):
    """Bit for bit: a fit, and a calibration by the recorded answers."""
    as_grades = [replace(t, correct=t.correct.astype(np.float32)) for t in splits]
    made = []
    for train, calibration, test in (splits, as_grades):
        router = cr2fast.fit(train, problem.costs, **QUICK)
        router.calibrate(calibration, judge="outcomes")
        made.append((router.to_bytes(), repr(cr2fast.evaluate(router, test).to_dict())))
    assert made[0] == made[1]


def test_a_teacher_learns_the_grades(problem, graded, splits):
    """Of grades that are the true probabilities it learns more than of as many answers."""
    index = {q: i for i, q in enumerate(graded.query_ids)}
    rows = [index[q] for q in splits[0].query_ids[:400]]
    test = [index[q] for q in splits[2].query_ids]
    errors = []
    for table in (graded, problem.table):
        router = cr2fast.fit(table.take(rows), problem.costs, recipe="paper", seed=3, **QUICK)
        p = router.accuracies(table.embeddings[test])
        errors.append(float(np.square(p - problem.probabilities[test]).mean()))
    assert errors[0] < errors[1]


@pytest.mark.parametrize("recipe", ["smoothed", "paper"])
@pytest.mark.parametrize("w_rank", [0.0, 0.5])
def test_both_recipes_and_losses_take_grades(graded, problem, recipe, w_rank):
    router = cr2fast.fit(
        graded.take(range(300)), problem.costs, recipe=recipe, w_rank=w_rank, **QUICK
    )
    p = router.accuracies(graded.embeddings[300:])
    assert np.corrcoef(p.ravel(), problem.probabilities[300:].ravel())[0, 1] > 0.5


def test_a_false_acceptance_is_one_where_the_grades_prefer_the_edge(problem, graded):
    """Whole, however little the edge would gain: the risk stays the fraction of such queries."""
    train, calibration, test = graded.split(seed=0)
    router = cr2fast.fit(train, problem.costs, **QUICK)
    report = router.calibrate(calibration, judge="outcomes", lams=[0.3, 1.0], alphas=[0.05, 0.2])
    states = router.costs.sample_states(len(calibration), 1_000_003)
    costs = router.decision_costs(calibration, states, "predicted")
    rows = list(zip(calibration.correct, costs, strict=True))
    edge = np.array([[margin(y, c, lam) < 0 for y, c in rows] for lam in report.lams])
    local = (
        router.margins(calibration.embeddings, report.lams)[:, None, :]
        >= report.thresholds[:, :, None]
    )
    risk = (local & edge[:, None, :]).mean(axis=2)
    np.testing.assert_allclose(report.empirical_risk, risk, rtol=0, atol=1e-12)
    assert (report.empirical_risk <= np.array([0.05, 0.2])).all()
    e = cr2fast.evaluate(router, test)
    alone = e.baselines["alone"]["accuracy"]
    np.testing.assert_allclose(alone, test.correct.mean(axis=0, dtype=np.float64), rtol=1e-12)
    assert e.n_answerable == len(test)


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan")])
def test_other_grades_are_refused(graded, value):
    correct = graded.correct.copy()
    correct[7, 1] = value
    with pytest.raises(
        cr2fast.Cr2Error, match=r"correct: expected grades in \[0, 1\].*synthetic/1/7"
    ):
        replace(graded, correct=correct)
    with pytest.raises(cr2fast.Cr2Error, match="correct: expected bool or float32, got float64"):
        replace(graded, correct=graded.correct.astype(float))


def test_a_recalibration_without_answers_keeps_what_answers_said_of_lengths(fitted, splits):
    router = cr2fast.Router(fitted._core)
    router.calibrate(splits[1])
    whole = router.to_bytes()
    router.calibrate(splits[1].queries())
    assert router.to_bytes() == whole
    fresh = cr2fast.Router(fitted._core)
    fresh.calibrate(splits[1].queries())
    assert fresh.calibration["length_factors"].size == 0
