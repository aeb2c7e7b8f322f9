"""Choosing an operating point by wishes: against plain loops, and with wishes that cannot be."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast.evaluation import bounds
from testing import choosing as oracle

FIGURES = {
    "min_accuracy": "accuracy",
    "max_latency_s": "latency_s",
    "max_latency_p95_s": "latency_p95_s",
    "max_energy_j": "energy_j",
}


@pytest.fixture(scope="module")
def world(splits, artifact):
    """A calibrated router, its validation and test parts, and what the first came to."""
    validation, test = splits[2].split((0.5, 0.5), seed=1)
    router = cr2fast.Router.load(artifact)
    return router, validation, test, cr2fast.evaluate(router, validation)


@given(
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    st.floats(0.01, 0.99),
)
def test_binomial_p_values_are_the_definition(case, rate):
    n, k = case
    p = bounds.at_most_p(np.array([k]), n, rate)[0]
    assert p == pytest.approx(oracle.binomial_tail(k, n, rate), rel=1e-9, abs=1e-12)


LOSSES = st.lists(
    st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32)), min_size=1, max_size=40
)


@given(LOSSES, st.floats(0.02, 0.98))
def test_bounded_p_values_are_the_definition(losses, level):
    x = np.array(losses)
    mean = bounds.hoeffding_bentkus_p(x.mean(keepdims=True), len(x), level)[0]
    assert mean == pytest.approx(oracle.hoeffding_bentkus(x, level), rel=1e-6, abs=1e-12)
    bet = bounds.betting_p(x, level, 0.001)
    assert bet == pytest.approx(oracle.betting(x, level, 0.001), rel=1e-9)
    assert bounds.bounded_p(x, level, 0.001) == pytest.approx(min(1, 2 * min(mean, bet)), rel=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.001, 0.9))
def test_holm_steps_down(p_values, delta):
    assert bounds.holm(np.array(p_values), delta).tolist() == oracle.holm(p_values, delta)


@pytest.mark.parametrize("seed", range(12))
def test_the_best_point_is_what_a_loop_finds(world, seed):
    result = world[3]
    rng = np.random.default_rng(seed)
    names = rng.permutation(list(FIGURES))[: 1 + seed % 4]
    # Wishes that some point keeps: the figures of one of them.
    i, j = rng.integers(len(result.lams)), rng.integers(len(result.alphas))
    asked = {n: float(getattr(result, FIGURES[n])[i, j]) for n in names}
    point = result.choose(**asked)
    kept = np.ones(result.accuracy.shape, dtype=bool)
    for name, bound in asked.items():
        values = getattr(result, FIGURES[name])
        kept &= values >= bound - 1e-12 if name == "min_accuracy" else values <= bound + 1e-9
    figures = {"cost": result.cost, "accuracy": result.accuracy}
    a, b = oracle.best(figures, kept, "min_accuracy" in asked)
    assert (point.lam, point.alpha) == (result.lams[a], result.alphas[b])
    assert (point.candidates, point.points) == (kept.sum(), kept.size)
    at = result.at(point.lam, point.alpha)
    for name in (
        "accuracy",
        "local_rate",
        "risk",
        "latency_s",
        "latency_p95_s",
        "energy_j",
        "cost",
    ):
        value, low, high = point[name][1:]
        assert value == pytest.approx(at[name])
        assert low <= value <= high


def test_a_fraction_of_the_big_models_accuracy(world):
    result = world[3]
    big = result.models.index(result.big_model)
    alone = result.baselines["alone"]["accuracy"][big]
    for fraction in (0.8, 0.95):
        point = result.choose(relative_accuracy=fraction)
        assert point["accuracy"].value >= fraction * alone - 1e-9
        same = result.choose(min_accuracy=fraction * alone)
        assert (point.lam, point.alpha) == (same.lam, same.alpha)
        assert point["relative_accuracy"].value == pytest.approx(point["accuracy"].value / alone)
        assert f"{100 * fraction:g} % of the accuracy of {result.big_model}" in point.statement


def test_a_promise_costs_something_and_is_said(world):
    result = world[3]
    plain = result.choose(relative_accuracy=0.85)
    promised = result.choose(relative_accuracy=0.85, delta=0.1)
    assert promised.candidates < plain.candidates
    assert promised["cost"].value >= plain["cost"].value
    assert "no promise" in plain.statement
    assert "With probability at least 0.9 over validation sets of 250" in promised.statement
    both = result.choose(
        relative_accuracy=0.8, max_energy_j=2 * float(result.energy_j.max()), delta=0.1
    )
    assert "cut at 10 times their budget" in both.statement
    strict = result.choose(relative_accuracy=0.85, delta=0.01)
    assert strict.candidates <= promised.candidates


def test_the_promise_is_by_the_p_values_of_the_definition(world):
    result = world[3]
    queries, delta, rate = result.queries, 0.2, float(np.quantile(result.latency_s, 0.5))
    budget, p = 2 * rate, []
    least = float(np.quantile(result.accuracy, 0.5)) - 0.08
    aim = delta / result.accuracy.size
    for i, j in np.ndindex(result.accuracy.shape):
        wrong = int((1 - queries.of("accuracy", i, j)).sum())
        late = np.minimum(queries.of("latency_s", i, j), 10 * budget) / (10 * budget)
        bounded = min(
            1, 2 * min(oracle.hoeffding_bentkus(late, 0.1), oracle.betting(late, 0.1, aim))
        )
        p.append(max(oracle.binomial_tail(wrong, len(queries), 1 - least), bounded))
    kept = np.array(oracle.holm(p, delta)).reshape(result.accuracy.shape)
    kept &= (result.accuracy >= least) & (result.latency_s <= budget)
    assert 0 < kept.sum() < kept.size
    point = result.choose(min_accuracy=least, max_latency_s=budget, delta=delta)
    assert point.candidates == kept.sum()
    a, b = oracle.best({"cost": result.cost, "accuracy": result.accuracy}, kept, True)
    assert (point.lam, point.alpha) == (result.lams[a], result.alphas[b])


def test_graded_answers_have_bounded_tests(world):
    result = world[3]
    by_model = dict(result.queries.by_model)
    by_model["accuracy"] = by_model["accuracy"] * 0.5 + 0.25
    graded = replace(
        result,
        queries=replace(result.queries, by_model=by_model),
        accuracy=result.accuracy * 0.5 + 0.25,
    )
    point = graded.choose(min_accuracy=0.3, delta=0.1)
    assert point["accuracy"].low < point["accuracy"].value < point["accuracy"].high < 1


def test_wishes_that_no_point_keeps_name_what_binds(world):
    result = world[3]
    least = float(result.latency_s.min())
    with pytest.raises(
        cr2fast.InfeasibleWishError, match=r"what binds is max_latency_s .*nearest"
    ) as e:
        result.choose(max_latency_s=0.5 * least, min_accuracy=0.0)
    assert e.value.binding == ("max_latency_s",)
    assert e.value.nearest[0] in result.lams
    assert f"mean latency {least:.4g} s at lam=" in str(e.value)
    again = pickle.loads(pickle.dumps(e.value))
    assert (str(again), again.binding, again.nearest) == (
        str(e.value), e.value.binding, e.value.nearest,
    )  # fmt: skip
    # Each by itself can be kept, not both.
    with pytest.raises(cr2fast.InfeasibleWishError, match="with the other wishes kept") as e:
        result.choose(
            min_accuracy=float(result.accuracy.max()), max_energy_j=float(result.energy_j.min())
        )
    assert set(e.value.binding) == {"min_accuracy", "max_energy_j"}
    # Kept on these queries, and no promise.
    with pytest.raises(
        cr2fast.InfeasibleWishError, match=r"no point can be promised .*p-value"
    ) as e:
        result.choose(min_accuracy=float(result.accuracy.max()), delta=0.05)
    assert e.value.binding == ("min_accuracy",)
    assert len(str(e.value)) < 1000


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "choose: expected at least one of min_accuracy, relative_accuracy, max_latency_s"),
        ({"min_accuracy": 1.2}, "min_accuracy: expected a number from 0 to 1, got 1.2"),
        ({"min_accuracy": float("nan")}, "min_accuracy: expected a number from 0 to 1, got nan"),
        ({"relative_accuracy": 0}, "relative_accuracy: expected a positive number"),
        ({"max_latency_s": -1}, "max_latency_s: expected a number, at least 0, got -1"),
        ({"max_latency_p95_s": float("inf")}, "max_latency_p95_s: expected a number, at least 0"),
        ({"max_energy_j": "20"}, "max_energy_j: expected a number, at least 0, got '20'"),
        ({"max_energy_j": True}, "max_energy_j: expected a number, at least 0, got True"),
        ({"max_usd": 0.003}, "max_usd: expected a cost table with prices, got one without"),
        ({"min_accuracy": 0.1, "delta": 0}, r"delta: expected a number in \(0, 1\), got 0"),
        ({"min_accuracy": 0.1, "delta": 1.0}, r"delta: expected a number in \(0, 1\), got 1"),
        ({"min_accuracy": 0.1, "delta": float("nan")}, r"delta: expected a number in \(0, 1\)"),
        ({"max_energy_j": 9.0, "clip": 1.0}, "clip: expected a finite number above 1, got 1.0"),
        ({"max_energy_j": 0, "delta": 0.1}, "max_energy_j: expected a positive budget with delta"),
    ],
)
def test_bad_wishes_are_named(world, asked, words):
    with pytest.raises(cr2fast.Cr2Error, match=words):
        world[3].choose(**asked)


def test_a_point_is_chosen_on_queries_of_its_own(world, splits):
    router, validation, test, result = world
    for used in splits[:2]:
        with pytest.raises(cr2fast.SplitOverlapError):
            cr2fast.evaluate(router, used).choose(min_accuracy=0.1)
    point = result.choose(relative_accuracy=0.9)
    assert cr2fast.evaluate(router, test, point=point).n == len(test)
    renamed = replace(validation, query_ids=tuple(f"new-{i}" for i in range(len(validation))))
    with pytest.raises(cr2fast.SplitOverlapError, match="those that chose the point, got 250"):
        cr2fast.evaluate(router, renamed, point=point)
    other = router.to_bfloat16()
    other.calibrate(splits[1], alphas=(0.05,), lams=[1.0])
    with pytest.raises(cr2fast.Cr2Error, match="point: expected the router it was chosen for"):
        cr2fast.evaluate(other, test, point=point)


def test_a_point_prints_as_a_table_and_keeps_as_a_file(world, tmp_path):
    point = world[3].choose(min_accuracy=0.3, max_latency_s=1e3)
    text = str(point)
    assert text.startswith(f"lam {point.lam:g}, alpha {point.alpha:g}: the cheapest of the")
    for words in (
        "95 % interval",
        "at least 0.3",
        "at most 1000",
        "kept on the device",
        "energy, mean, J",
    ):
        assert words in text
    assert "dollars" not in text, "the table has no prices"
    assert max(map(len, text.splitlines()[:-1])) <= 110
    path = tmp_path / "point.json"
    point.write(path)
    again = cr2fast.OperatingPoint.read(path)
    assert again.to_dict() == point.to_dict()
    assert str(again) == text
    assert again.content.tobytes() == point.content.tobytes()
    assert pickle.loads(pickle.dumps(point)).to_dict() == point.to_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "cr2fast.point/9"},
        {"lam": "1"},
        {"lam": -1.0},
        {"alpha": None},
        {"n": 1.5},
        {"wishes": []},
        {"expected": {"accuracy": 1}},
        {"content": {"width": 2, "keys": "%%%"}},
        {"content": {"width": 7, "keys": "AAAAAAAAAAA="}},
    ],
)
def test_files_that_are_no_points_are_refused(world, tmp_path, change):
    path = tmp_path / "point.json"
    data = world[3].choose(min_accuracy=0.3).to_dict()
    path.write_text(json.dumps(data | change))
    with pytest.raises(cr2fast.Cr2Error, match="expected a point as") as e:
        cr2fast.OperatingPoint.read(path)
    assert len(str(e.value)) < 600
    for text in (
        "",
        "[]",
        "{" * 100_000,
        "\x00",
        json.dumps({k: v for k, v in data.items() if k != "router"}),
    ):
        path.write_text(text)
        with pytest.raises(cr2fast.Cr2Error, match="expected a point as"):
            cr2fast.OperatingPoint.read(path)


def test_at_prints_as_a_small_table(world):
    result = world[3]
    figures = result.at(float(result.lams[3]), 0.05)
    assert figures["accuracy"] == result.accuracy[3, 1]
    text = str(figures)
    assert repr(figures) == text
    for words in ("answered correctly", "needlessly deferred", "half within", "energy, J"):
        assert words in text
    for words in ("answerable (acc. ans.): of the queries", "needless: deferred to the edge"):
        assert words in text
    assert "dollars" not in text
    assert len(text.splitlines()) < 15
