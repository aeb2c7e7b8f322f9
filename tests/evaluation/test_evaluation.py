"""evaluate: what is counted, against a loop over queries."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import cr2fast
from cr2fast._util.jsontext import json_ready
from cr2fast.evaluation import upper_hull
from testing import oracle


@pytest.fixture(scope="module")
def evaluation(artifact, splits):
    return cr2fast.evaluate(cr2fast.Router.load(artifact), splits[2], seed=3)


def test_every_number_equals_a_loop_over_queries(artifact, splits, evaluation):
    router, test = cr2fast.Router.load(artifact), splits[2]
    lam, alpha = 1.0, 0.05
    states = router.costs.sample_states(len(test), 2_000_003 + 3)
    device, edge = (
        cr2fast.DeviceRouter.load(artifact, lam, alpha),
        cr2fast.EdgeSelector.load(artifact, lam),
    )
    seen = router.decision_costs(test, states, "predicted")
    p = router.accuracies(test.embeddings)
    args = (test.n_input_tokens, test.n_output_tokens, states)
    true = router.costs.cost(*args)
    latency, energy = router.costs.latency_s(*args), router.costs.energy_j(*args)
    rows = []
    for i in range(len(test)):
        local = device.route(test.embeddings[i]).local
        m = 0
        if not local:
            chosen = edge.select(test.embeddings[i], test.n_input_tokens[i], states[i])
            m = test.models.index(chosen.model)
        full = oracle.choose(p[i], seen[i], lam, range(4))
        rows.append(
            (test.correct[i, m], true[i, m], latency[i, m], energy[i, m], local, local and full != 0,
             not local and full == 0, m)
        )  # fmt: skip
    correct, cost, t, e, local, false, needless, model = map(np.array, zip(*rows, strict=True))
    point = evaluation.at(lam, alpha)
    expected = {
        "accuracy": correct.mean(),
        "accuracy_answerable": correct[test.answerable].mean(),
        "cost": cost.mean(dtype=float),
        "latency_s": t.mean(),
        "latency_p95_s": np.quantile(t, 0.95),
        "energy_j": e.mean(),
        "energy_p50_j": np.quantile(e, 0.5),
        "local_rate": local.mean(),
        "risk": false.mean(),
        "needless_deferrals": needless.mean(),
    }
    for name, value in expected.items():
        assert point[name] == pytest.approx(value, rel=1e-9), name
    i, j = list(evaluation.lams).index(lam), list(evaluation.alphas).index(alpha)
    np.testing.assert_allclose(
        evaluation.share[i, j], [(model == k).mean() for k in range(4)], atol=1e-12
    )
    assert 0 < point["local_rate"] < 1


def test_baselines_are_ordered_as_they_must_be(evaluation):
    base = evaluation.baselines
    lams = evaluation.lams
    utility = {
        k: np.array(v["accuracy"]) - lams * v["cost"] for k, v in base.items() if k != "alone"
    }
    routed = evaluation.accuracy - lams[:, None] * evaluation.cost
    assert (utility["oracle"] >= utility["full_information"] - 1e-9).all()
    assert (utility["oracle"][:, None] >= routed - 1e-9).all()
    alone = np.array(base["alone"]["accuracy"]) - lams[:, None] * base["alone"]["cost"]
    assert (utility["oracle"] >= alone.max(axis=1) - 1e-9).all()


def test_deferred_variants(artifact, splits, evaluation):
    router, test = cr2fast.Router.load(artifact), splits[2]
    inclusive = cr2fast.evaluate(router, test, seed=3, deferred="inclusive")
    fallback = cr2fast.evaluate(router, test, seed=3, deferred="fallback", fallback="edge-3")
    assert (inclusive.share[:, :, 0] >= evaluation.share[:, :, 0]).all()
    assert (fallback.share[:, :, 1:3] == 0).all()
    np.testing.assert_array_equal(inclusive.local_rate, evaluation.local_rate)


def test_the_risk_is_about_the_calibrated_reference_whatever_the_edge_knows(
    artifact, splits, evaluation
):
    router = cr2fast.Router.load(artifact)
    known = cr2fast.evaluate(router, splits[2], seed=3, lengths="known")
    assert known.lengths == "known"
    np.testing.assert_array_equal(known.false_acceptances, evaluation.false_acceptances)
    assert (known.share != evaluation.share).any()
    assert known.statement == router.statement


def test_no_answerable_query_has_no_accuracy_among_them(artifact, splits):
    test = splits[2].take(np.flatnonzero(~splits[2].answerable))
    e = cr2fast.evaluate(cr2fast.Router.load(artifact), test)
    assert e.n_answerable == 0
    assert np.isnan(e.accuracy_answerable).all()


def test_intervals_reach_around_the_risk(evaluation):
    low, high = np.moveaxis(evaluation.risk_interval, 2, 0)
    assert (low <= evaluation.risk).all()
    assert (evaluation.risk <= high).all()
    np.testing.assert_array_equal(evaluation.compatible, low <= evaluation.alphas)
    assert ((evaluation.p_value >= 0) & (evaluation.p_value <= 1)).all()


def test_pareto_is_an_upper_hull():
    cost = np.array([0.1, 0.2, 0.3, 0.4, 0.25, 0.1])
    accuracy = np.array([0.5, 0.6, 0.61, 0.8, 0.4, 0.45])
    np.testing.assert_array_equal(upper_hull(cost, accuracy), [[0.1, 0.5], [0.4, 0.8]])
    rng = np.random.default_rng(0)
    x, y = rng.random(200), rng.random(200)
    hull = upper_hull(x, y)
    assert (np.diff(hull, axis=0) > 0).all()
    over = np.interp(x, hull[:, 0], hull[:, 1])
    assert (y[x >= hull[0, 0]] <= over[x >= hull[0, 0]] + 1e-12).all()


def test_the_cheapest_point_of_an_accuracy(evaluation):
    best = evaluation.accuracy.max()
    for least in (best, np.median(evaluation.accuracy), 0):
        point = evaluation.cheapest(least)
        assert point["cost"] == evaluation.cost[evaluation.accuracy >= least].min()
        assert point["accuracy"] >= least
        assert point == pytest.approx(evaluation.at(point["lam"], point["alpha"]), nan_ok=True)
    assert evaluation.cheapest(1.01) is None
    for wrong in (np.ma.masked, [0.4, 0.5], float("nan"), "a", None, True, -1):
        with pytest.raises(cr2fast.Cr2Error, match="min_accuracy: expected"):
            evaluation.cheapest(wrong)


def test_it_becomes_json(evaluation):
    text = json.dumps(json_ready(evaluation.to_dict()), allow_nan=False)
    assert json.loads(text)["n"] == 500


def test_what_it_refuses(artifact, splits, fitted):
    router = cr2fast.Router.load(artifact)
    with pytest.raises(cr2fast.SplitOverlapError, match="test split: .*training split"):
        cr2fast.evaluate(router, splits[0])
    with pytest.raises(cr2fast.SplitOverlapError, match="test split: .*calibration split"):
        cr2fast.evaluate(router, splits[1])
    with pytest.raises(cr2fast.OperatingPointError, match="call calibrate first"):
        cr2fast.evaluate(cr2fast.Router(fitted._core), splits[2])
    with pytest.raises(cr2fast.Cr2Error, match="deferred: expected"):
        cr2fast.evaluate(router, splits[2], deferred="never")
    with pytest.raises(
        cr2fast.Cr2Error, match="fallback: expected no model without deferred='fallback'"
    ):
        cr2fast.evaluate(router, splits[2], fallback="edge-1")
    with pytest.raises(cr2fast.Cr2Error, match="fallback: expected one of"):
        cr2fast.evaluate(router, splits[2], deferred="fallback")
    with pytest.raises(cr2fast.OperatingPointError, match="lam=0.5: expected one of"):
        cr2fast.evaluate(router, splits[2]).at(0.5, 0.05)
    with pytest.raises(cr2fast.Cr2Error, match="models of the test split"):
        cr2fast.evaluate(router, replace(splits[2], models=tuple("abcd")))
