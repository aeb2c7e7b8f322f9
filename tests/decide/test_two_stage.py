"""TwoStage: what the two stages say one after the other, and budgets on top."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import cr2fast
from testing import oracle


@pytest.fixture(scope="module")
def two(artifact):
    return cr2fast.TwoStage.load(artifact, 1.0, 0.05)


@pytest.fixture(scope="module")
def stages(artifact):
    return cr2fast.DeviceRouter.load(artifact, 1.0, 0.05), cr2fast.EdgeSelector.load(artifact, 1.0)


@pytest.fixture(scope="module")
def world(artifact, splits):
    """Test queries, their states, and the bounds of their output lengths."""
    router, test = cr2fast.Router.load(artifact), splits[2]
    states = router.costs.sample_states(len(test), 5)
    predicted = router.predict_lengths(test.embeddings, test.n_input_tokens)
    bound = (predicted + 1) * router.calibration["length_factors"] - 1
    return router, test, states, bound


def same(choice, decision, selection):
    assert (choice.margin, choice.threshold, choice.score) == (
        decision.margin, decision.threshold, decision.score,
    )  # fmt: skip
    assert not choice.forced
    if decision.local:
        assert (choice.model, choice.place, choice.local) == ("device-s", "device", True)
        return
    assert (choice.model, choice.place, choice.local) == (selection.model, "edge", False)
    for name in ("accuracy", "utility", "cost", "latency_s", "energy_j", "usd"):
        assert getattr(choice, name) == getattr(selection, name)


def test_one_call_is_the_two_stages(two, stages, world):
    _, test, states, _ = world
    device, edge = stages
    places = set()
    for i in range(0, len(test), 7):
        x, n = test.embeddings[i], test.n_input_tokens[i]
        choice = two.route(x, n, states[i])
        same(choice, device.route(x), edge.select(x, n, states[i]))
        places.add(choice.place)
    assert places == {"device", "edge"}


def test_a_batch_is_its_rows(two, world):
    _, test, states, _ = world
    x, n = test.embeddings[:120], test.n_input_tokens[:120]
    states = cr2fast.LinkStates(
        *(getattr(states, f)[:120] for f in ("rate_ul_bps", "rate_dl_bps", "rtt_s"))
    )
    for limits in ({}, {"max_latency_s": 20.0}):
        got = two.route_batch(x, n, states, threads=2, **limits)
        assert len(got) == 120
        for i in range(120):
            one = two.route(x[i], n[i], states[i], **limits)
            assert got.models[got.index[i]] == one.model
            assert (got.local[i], got.forced[i]) == (one.local, one.forced)
            assert got.margin[i] == np.float32(one.margin)
            if not one.local:
                assert got.accuracy[i] == one.accuracy
                assert got.latency_s[i] == one.latency_s
                assert np.isnan(got.usd[i])
    empty = two.route_batch(x[:0], n[:0])
    assert len(empty) == 0


def test_an_accepted_query_is_priced_when_it_is_asked(two, world):
    router, test, states, _ = world
    i = int(np.flatnonzero(two.route_batch(test.embeddings, test.n_input_tokens).local)[0])
    x, n = test.embeddings[i : i + 1], test.n_input_tokens[i : i + 1]
    choice = two.route(x[0], n[0], states[i])
    state = cr2fast.LinkStates([states[i].rate_ul_bps], [states[i].rate_dl_bps], [states[i].rtt_s])
    lengths = router.predict_lengths(x, n)
    assert choice.accuracy == router.accuracies(x)[0, 0]
    assert choice.cost == router.costs.cost(n, lengths, state)[0, 0]
    assert choice.latency_s == router.costs.latency_s(n, lengths, state)[0, 0]
    assert choice.energy_j == router.costs.energy_j(n, lengths, state)[0, 0]
    assert choice.usd is None
    assert 'Choice(model="device-s"' in repr(choice)


def test_without_a_state_the_link_is_typical(two, world):
    router, test, _, _ = world
    s = router.costs.sample_states(1001, 0)
    typical = cr2fast.LinkState(
        *(float(np.median(a)) for a in (s.rate_ul_bps, s.rate_dl_bps, s.rtt_s))
    )
    assert two.typical_state == typical
    x, n = test.embeddings[0], 100
    assert two.route(x, n).cost == two.route(x, n, typical).cost


def test_a_budget_restricts_the_candidates(two, artifact, world):
    router, test, states, bound = world
    t = router.costs.latency_s(test.n_input_tokens, bound, states)
    e = router.costs.energy_j(test.n_input_tokens, bound, states)
    p = router.accuracies(test.embeddings)
    c = router.decision_costs(test, states, "predicted")
    seen = set()
    for i in range(0, len(test), 3):
        # Now limits in the midst of the models, now one that hardly more than the device keeps.
        limits = {"max_energy_j": e[i, 0] * 1.001}
        if i % 2:
            limits = {"max_latency_s": np.median(t[i]), "max_energy_j": np.quantile(e[i], 0.6)}
        ok = (t[i] <= limits.get("max_latency_s", np.inf)) & (e[i] <= limits["max_energy_j"])
        args = (test.embeddings[i], test.n_input_tokens[i], states[i])
        kept = [m for m in (1, 2, 3) if ok[m]]
        local = two.route(*args).local
        if not ok.any():
            with pytest.raises(cr2fast.BudgetError, match="the nearest is"):
                two.route(*args, **limits)
            seen.add("none")
            continue
        choice = two.route(*args, **limits)
        assert ok[two.models.index(choice.model)]
        if local and ok[0]:
            assert (choice.local, choice.forced) == (True, False)
            seen.add("accepted")
        elif kept:
            assert choice.model == two.models[oracle.choose(p[i], c[i], 1.0, kept)]
            seen.add("edge, though accepted" if local else "edge")
        else:
            assert (choice.local, choice.forced) == (True, True)
            seen.add("forced")
    assert {"accepted", "edge", "forced"} <= seen


def test_a_wide_budget_changes_nothing(two, world):
    _, test, states, _ = world
    wide = {"max_latency_s": 1e9, "max_energy_j": 1e12}
    for i in range(0, len(test), 19):
        args = (test.embeddings[i], test.n_input_tokens[i], states[i])
        a, b = two.route(*args), two.route(*args, **wide)
        assert (a.model, a.cost, a.accuracy) == (b.model, b.cost, b.accuracy)


def test_the_edge_keeps_budgets_alone(stages, world):
    router, test, states, bound = world
    edge = stages[1]
    t = router.costs.latency_s(test.n_input_tokens, bound, states)[:, 1:]
    limit = float(t.min(axis=1).max())
    got = edge.select_batch(test.embeddings, test.n_input_tokens, states, max_latency_s=limit)
    assert (t[np.arange(len(test)), got.index - 1] <= limit).all()
    worst = int(t.min(axis=1).argmax())
    with pytest.raises(cr2fast.BudgetError, match=rf"meets in row {worst}, got max_latency_s="):
        edge.select_batch(
            test.embeddings, test.n_input_tokens, states, max_latency_s=limit * 0.9999999
        )
    # Known lengths are their own bound.
    args = (test.embeddings[0], 100, states[0])
    known = edge.select(*args, n_output_tokens=[10, 10, 10, 10], max_latency_s=1.0)
    assert known.latency_s <= 1.0
    with pytest.raises(cr2fast.BudgetError, match='the nearest is "edge-1", which may take 0'):
        edge.select(*args, n_output_tokens=[10, 10, 10, 10], max_latency_s=1e-3)


def test_availability_is_the_edge_s(two, world):
    _, test, states, _ = world
    deferred = np.flatnonzero(~two.route_batch(test.embeddings, test.n_input_tokens, states).local)
    i = int(deferred[0])
    args = (test.embeddings[i], test.n_input_tokens[i], states[i])
    assert two.route(*args, available=["edge-2"]).model == "edge-2"
    with pytest.raises(cr2fast.Cr2Error, match="available: expected at least one model"):
        two.route(*args, available=[])


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_usd": 1.0}, "max_usd: expected it with a cost table that has prices of all models"),
        ({"max_latency_s": -1.0}, "max_latency_s: expected a number, at least 0, got -1"),
        ({"max_latency_s": float("nan")}, "max_latency_s: expected a number, at least 0, got NaN"),
        ({"max_energy_j": float("inf")}, "max_energy_j: expected a number, at least 0, got inf"),
        ({"max_latency_s": 0.0}, "the nearest is .*, which may take .* of max_latency_s"),
    ],
)
def test_bad_budgets_are_named(two, stages, world, limits, words):
    _, test, states, _ = world
    args = (test.embeddings[0], 100, states[0])
    for call in (two.route, stages[1].select):
        with pytest.raises(cr2fast.Cr2Error, match=words) as error:
            call(*args, **limits)
        assert len(str(error.value)) < 600


def test_bad_queries_are_named_whatever_stage_one_says(two, problem):
    x = problem.table.embeddings
    for i in range(20):
        with pytest.raises(cr2fast.Cr2Error, match=r"n_input_tokens\[0\]: expected a token count"):
            two.route(x[i], float("nan"))
    with pytest.raises(cr2fast.Cr2Error, match="length 40, got length 3"):
        two.route(x[0][:3], 10)
    with pytest.raises(TypeError, match="embedding: .*float64"):
        two.route(x[0].astype(float), 10)
    with pytest.raises(cr2fast.Cr2Error, match="n_input_tokens: expected shape"):
        two.route_batch(x[:3], [1, 2])
    with pytest.raises(cr2fast.Cr2Error, match=r"n_input_tokens\[1\]: expected a token count"):
        two.route_batch(x[:2], [1, -2])
    with pytest.raises(cr2fast.Cr2Error, match="states: expected 2, one per query, got 1"):
        two.route_batch(x[:2], [1, 2], cr2fast.LinkStates([1], [1], [0]))
    for words, call in (
        ("n_input_tokens: expected a number", lambda: two.route(x[0], "10")),
        ("state: expected a LinkState", lambda: two.route(x[0], 10, 0.02)),
        ("group: expected a str", lambda: two.route(x[0], 10, group=3)),
        ("states: expected a LinkStates", lambda: two.route_batch(x[:1], [1], [0.02])),
    ):
        with pytest.raises(TypeError, match=words):
            call()


def test_a_router_calibrated_without_lengths_keeps_no_budget(artifact, world):
    from testing.artifacts import parts

    assert "calibration.length_factors" in parts(artifact.read_bytes())[0]
    _, test, _, _ = world
    split = test.take(range(15))
    few = cr2fast.Router.load(artifact)
    few.calibrate(split, alphas=[0.2])
    assert few.calibration["length_factors"].size == 0, "15 queries bound nothing at 5 %"
    two = few.two_stage(1.0, 0.2)
    with pytest.raises(cr2fast.Cr2Error, match="calibrate on 19 or more queries with recorded"):
        two.route(test.embeddings[20], 100, max_latency_s=1e6)
    assert two.route(test.embeddings[20], 100).model in two.models


def test_length_factors_are_conformal_quantiles(artifact, splits):
    router = cr2fast.Router.load(artifact)
    part = splits[1]
    ratio = (part.n_output_tokens + 1.0) / (
        router.predict_lengths(part.embeddings, part.n_input_tokens) + 1
    )
    rank = -(-((len(part) + 1) * 19) // 20)
    expected = np.sort(ratio, axis=0)[rank - 1]
    np.testing.assert_array_equal(router.calibration["length_factors"], expected)


def test_fewer_than_one_answer_in_twenty_overruns(world):
    _, test, _, bound = world
    over = (test.n_output_tokens > bound).mean(axis=0)
    assert (over < 0.05 + 4 * np.sqrt(0.05 * 0.95 * (1 / 500 + 1 / 500))).all()


def test_points_and_rules_are_checked(artifact, router):
    with pytest.raises(cr2fast.OperatingPointError, match="not on the calibrated grid"):
        cr2fast.TwoStage.load(artifact, 1.05, 0.05)
    with pytest.raises(cr2fast.Cr2Error, match="fallback: expected one of the edge models"):
        cr2fast.TwoStage.load(artifact, 1.0, 0.05, "fallback", "device-s")
    two = router.two_stage(lam=1.0, alpha=0.05, rule="fallback", fallback="edge-2")
    assert (two.lam, two.alpha, two.overrun) == (1.0, 0.05, 0.05)
    assert repr(two).startswith("TwoStage(lam=1")
    with pytest.raises(cr2fast.ArtifactError, match="got other"):
        cr2fast.TwoStage.load(artifact, 1.0, 0.05, encoder=cr2fast.EncoderInfo("other"))


def test_threads_share_it(two, world):
    _, test, states, _ = world
    expected = [two.route(test.embeddings[i], 50, states[i]).model for i in range(50)]
    wrong = []

    def work():
        got = [two.route(test.embeddings[i], 50, states[i]).model for i in range(50)]
        if got != expected:
            wrong.append(got)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
