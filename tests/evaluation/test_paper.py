"""What the experiments in benches/paper count with: checked by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from benches.paper import metrics, world
from cr2fast.datasets import make_routing_problem


def truth(n=200, seed=0):
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0.1, 1, (n, 3))
    return world.Truth(
        rng.random((n, 3)) < [0.4, 0.5, 0.8],
        cost,
        cost,
        cost,
        cost,
        np.array(["a", "b"] * (n // 2)),
        2,
    )


def points(t, p=20, seed=1):
    choices = np.random.default_rng(seed).integers(0, 3, (p, len(t.correct)))
    choices[0], choices[1] = 2, 0
    return choices, metrics.Points.of(list(range(p)), choices, t)


def test_points_count_only_answerable_queries():
    t = truth()
    choices, got = points(t)
    rows = [i for i in range(len(t.correct)) if t.correct[i].any()]
    assert 0 < len(rows) < len(t.correct)
    accuracy, cost = got.means()
    for p in range(len(choices)):
        assert accuracy[p] == pytest.approx(np.mean([t.correct[i, choices[p, i]] for i in rows]))
        assert cost[p] == pytest.approx(np.mean([t.cost[i, choices[p, i]] for i in rows]))


def test_targets_run_from_the_best_cheap_model_to_the_reference():
    t = truth()
    alone = t.correct[t.answerable].mean(axis=0)
    at = metrics.targets(t)
    assert len(at) == 8
    assert at[0] == pytest.approx(max(alone[:2]) + 0.03)
    assert at[-1] == pytest.approx(alone[2] - 0.01)


def test_matched_cost_is_the_least_that_reaches():
    accuracy, cost = np.array([0.5, 0.6, 0.7, 0.7]), np.array([0.1, 0.4, 0.3, 0.5])
    got = metrics.matched(accuracy, cost, np.array([0.45, 0.55, 0.65, 0.75]))
    np.testing.assert_array_equal(got, [0.1, 0.3, 0.3, 1.0])


def test_a_bootstrap_that_draws_each_query_once_is_the_sample_itself():
    t = truth()
    _, got = points(t)
    at = metrics.targets(t)
    ones = np.ones((1, got.right.shape[1]), dtype=np.float32)
    expected = metrics.matched(*got.means(), at)
    np.testing.assert_allclose(metrics.bootstrap(got, at, ones)[0], expected, rtol=1e-5)
    draws = metrics.draw_counts(got.right.shape[1], 50, 3)
    assert (draws.sum(axis=1) == got.right.shape[1]).all()
    assert metrics.bootstrap(got, at, draws).std(axis=0).max() > 0


def test_hulls_mix_two_points():
    accuracy, cost = np.array([0.4, 0.8, 0.5]), np.array([0.2, 0.6, 0.5])
    np.testing.assert_allclose(metrics.hull_cost(accuracy, cost, np.array([0.6, 0.8])), [0.4, 0.6])
    ends = [(0.4, 0.0), (0.8, 1.0)]
    flat = metrics.area(np.array([0.6]), np.array([0.5]), ends)
    low, high = metrics.AREA
    assert flat == pytest.approx(0.4 + 0.4 * (low + high) / 2, abs=1e-6)
    # A method that has only expensive points gains nothing where it has none.
    dear = metrics.area(np.array([0.8]), np.array([0.9]), ends)
    both = metrics.area(np.array([0.8, 0.5]), np.array([0.9, 0.2]), ends)
    assert dear < both


def test_mixing_at_a_cost_hits_that_cost():
    t = truth()
    _, got = points(t)
    accuracy, cost = got.means()
    # Between the cheapest point and the most accurate one: the ends of the hull.
    level = float((cost.min() + cost[accuracy.argmax()]) / 2)
    assert cost.min() < level
    weights = metrics.mix_at_cost(got, level)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).sum() <= 2
    assert weights @ cost == pytest.approx(level)


def test_the_test_split_opens_once_and_remembers_the_plan():
    sealed = world.Sealed([1, 2, 3])
    assert sealed.open({"chosen": "x"}) == [1, 2, 3]
    assert sealed.record["opened"] == 1
    assert len(sealed.record["plan_sha256"]) == 64
    with pytest.raises(RuntimeError, match="open already"):
        sealed.open({"chosen": "y"})


def test_what_a_decision_sees_holds_no_answers():
    problem = make_routing_problem(n=300, d=16, seed=0)
    train, _, test = problem.table.split(seed=0)
    table = test.take(range(40))
    table.extra["text"] = ["A question? 12 + 3"] * 40
    pricer = world.Pricer(train, problem.costs, 0)
    queries, outcome = pricer.split(table, 5)
    assert set(vars(queries)) == {
        "embeddings",
        "features",
        "n_input_tokens",
        "costs",
        "constant",
    }
    # Predicted costs do not move with the recorded lengths; known ones are the true ones.
    np.testing.assert_array_equal(queries.costs["known"], outcome.cost.astype(np.float32))
    longer = table.take(range(40))
    object.__setattr__(longer, "n_output_tokens", table.n_output_tokens + 50)
    again, _ = pricer.split(longer, 5)
    np.testing.assert_array_equal(again.costs["predicted"], queries.costs["predicted"])
    assert (again.costs["known"] != queries.costs["known"]).any()
