"""Thresholds per group: what a calibration of each group alone gives, kept, served, and refused."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cr2fast
from cr2fast import DeviceRouter, Router, TwoStage
from cr2fast.cli import main
from cr2fast.datasets import make_routing_problem
from testing import calibrated
from testing.artifacts import rewritten

LAMS, ALPHAS = [0.3, 1.0, 4.0], [0.02, 0.1, 0.3]


@pytest.fixture
def fresh(fitted):
    return Router(fitted._core)


@pytest.fixture(scope="module")
def grouped(fitted, splits):
    router = Router(fitted._core)
    report = router.calibrate(
        splits[1], lams=LAMS, alphas=ALPHAS, groups="category", on_infeasible="defer"
    )
    return router, report


@settings(max_examples=20)
@given(st.data())
def test_thresholds_are_those_of_each_group_alone(fitted, splits, data):
    """The twin calibrates nothing: it cuts the margins by group and sorts."""
    split, router = splits[1], Router(fitted._core)
    names = data.draw(st.lists(st.sampled_from("abcdé"), min_size=len(split), max_size=len(split)))
    delta = data.draw(st.sampled_from([None, 0.1]))
    pooled = data.draw(st.booleans())
    report = router.calibrate(
        split, lams=LAMS, alphas=ALPHAS, groups=names, simultaneous=delta is not None, delta=delta,
        unknown_group="pooled" if pooled else "defer", on_infeasible="defer",
        threads=data.draw(st.integers(0, 3)),
    )  # fmt: skip
    found = report.groups
    assert list(found.names) == sorted(set(names))
    assert found.unknown == ("pooled" if pooled else "defer")
    of = np.array(names)
    margins = router.margins(split.embeddings, LAMS)
    shares = len(LAMS) * (1 + len(found.names))
    prefers = calibrated.prefers_edge(router, split, LAMS)
    for g, name in enumerate(found.names):
        rows = np.flatnonzero(of == name)
        allowed = calibrated.allowed_counts(len(rows), ALPHAS, shares, delta)
        expected = calibrated.thresholds_by_count(margins[:, rows], prefers[:, rows], allowed)
        assert found.n[g] == len(rows)
        assert found.allowed[g] == allowed
        np.testing.assert_array_equal(found.thresholds[g], expected)
        local = margins[:, None, rows] >= expected[:, :, None]
        np.testing.assert_allclose(found.local_rate[g], local.mean(axis=2))
        wrong = (local & prefers[:, None, rows]).mean(axis=2)
        np.testing.assert_allclose(found.empirical_risk[g], wrong)
    kept = router.calibration["groups"]
    np.testing.assert_array_equal(kept["thresholds"], found.thresholds)
    assert kept["n"] == list(found.n)


def test_the_pooled_thresholds_do_not_change(grouped, fresh, splits):
    report = fresh.calibrate(splits[1], lams=LAMS, alphas=ALPHAS, on_infeasible="defer")
    np.testing.assert_array_equal(report.thresholds, grouped[1].thresholds)
    assert report.groups is None
    assert fresh.calibration["groups"] is None


def test_every_way_of_routing_takes_the_group(grouped, splits, tmp_path):
    router, report = grouped
    x, n = splits[2].embeddings, splits[2].n_input_tokens
    groups = list(splits[2].categories)
    groups[0], groups[1] = None, "never seen"
    path = tmp_path / "router.safetensors"
    router.save(path)
    assert Router.load(path).to_bytes() == router.to_bytes()
    device, two = DeviceRouter.load(path, 1.0, 0.1), TwoStage.load(path, 1.0, 0.1)
    assert device.groups == list(report.groups.names)
    by = np.array([device.threshold_of(g) for g in groups])
    expected = [
        report.groups.thresholds[report.groups.names.index(g), 1, 1]
        if g in device.groups
        else np.inf
        for g in groups
    ]
    np.testing.assert_array_equal(by, np.float32(expected))
    local = device.margins(x) >= by
    assert 0 < local.mean() < 1
    assert len(set(by.tolist())) > 2
    for decider in (device, pickle.loads(pickle.dumps(device)), router.device(1.0, 0.1)):
        np.testing.assert_array_equal(decider.route_batch(x, groups=groups), local)
        one = [decider.route(row, group=g) for row, g in zip(x, groups, strict=True)]
        assert [d.local for d in one] == local.tolist()
        assert [d.threshold for d in one] == by.tolist()
    for decider in (two, pickle.loads(pickle.dumps(two))):
        made = decider.route_batch(x, n, groups=groups)
        np.testing.assert_array_equal(made.local, local)
        np.testing.assert_array_equal(made.thresholds, by)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(made)).thresholds, by)
        limited = decider.route_batch(x, n, groups=groups, max_latency_s=1e6)
        np.testing.assert_array_equal(limited.local, local)
        ones = [decider.route(a, int(b), group=g) for a, b, g in zip(x, n, groups, strict=True)]
        assert [c.local for c in ones] == local.tolist()
    # Without any group every query is of an unknown one.
    assert not device.route_batch(x).any()
    assert not two.route_batch(x, n).local.any()
    assert device.route(x[0]).threshold == np.inf


def test_unknown_groups_take_the_pooled_threshold_where_asked(fresh, splits):
    fresh.calibrate(
        splits[1], lams=LAMS, alphas=ALPHAS, groups="category", unknown_group="pooled",
        on_infeasible="defer",
    )  # fmt: skip
    device = fresh.device(1.0, 0.1)
    assert device.threshold_of("never seen") == device.threshold_of() == device.threshold < np.inf
    again = DeviceRouter.from_bytes(device.to_bytes())
    assert again.threshold_of("never seen") == device.threshold
    assert "compared with the threshold of all" in fresh.statement


def test_what_it_says(grouped):
    router, report = grouped
    for text in (router.statement, report.statement):
        assert f"Within each of {len(report.groups.names)} groups" in text
        assert "of another group, or of none, is deferred" in text
    data = json.loads(json.dumps(report.to_dict()))
    assert data["groups"]["names"] == list(report.groups.names)
    cube = (len(report.groups.names), len(LAMS), len(ALPHAS))
    assert np.shape(data["groups"]["empirical_risk"]) == cube
    assert pickle.loads(pickle.dumps(report)).groups.n == report.groups.n


def test_a_group_too_small_defers_or_is_an_error(fresh, splits):
    names = ["few"] * 5 + ["many"] * (len(splits[1]) - 5)
    report = fresh.calibrate(splits[1], lams=LAMS, alphas=[0.1, 0.3], groups=names)
    assert report.groups.n == (5, len(names) - 5)
    assert report.groups.infeasible([0.1, 0.3]) == {"few": (0.1,)}
    assert (report.groups.thresholds[0, :, 0] == np.inf).all()
    assert "Too small for some risk levels" in report.statement
    assert "'few'" in report.statement
    before = fresh.to_bytes()
    with pytest.raises(cr2fast.InfeasibleAlphaError, match="alpha=0.1 .* 5 samples of group 'few'"):
        fresh.calibrate(splits[1], lams=LAMS, alphas=[0.1], groups=names, on_infeasible="raise")
    assert fresh.to_bytes() == before


def test_dropped_queries_leave_their_groups(fresh, splits):
    few = splits[0].take(np.arange(3))
    ids = (*few.query_ids, *splits[1].query_ids[3:])
    split = replace(splits[1], query_ids=ids)
    names = ["gone"] * 3 + ["stays"] * (len(split) - 3)
    report = fresh.calibrate(split, lams=LAMS, alphas=[0.3], groups=names, overlap="drop")
    assert (report.dropped, report.groups.names) == (3, ("stays",))


def test_bad_groups(fresh, splits):
    split, n = splits[1], len(splits[1])
    for groups, words in [
        (
            "app",
            "groups: expected a column of the queries, or a list of names, got 'app'; there are",
        ),
        (["a"], f"expected {n} names, one per query, got 1"),
        (["a"] * (n - 1) + [None], "expected a name .* got None for"),
        (["a"] * (n - 1) + [""], "expected a name .* got '' for"),
        (list(range(n)), "expected a name .* got 0 for"),
        (["a"] * (n - 1) + ["x" * 201], "names of 1 to 200 bytes"),
        (["a"] * (n - 1) + ["\ud800"], "UTF-8"),
        (7, "groups: expected a column's name or a list of names, got 7"),
    ]:
        with pytest.raises(cr2fast.Cr2Error, match=words) as e:
            fresh.calibrate(split, groups=groups)
        assert len(str(e.value)) < 600
    with pytest.raises(cr2fast.Cr2Error, match="unknown_group: expected 'defer' or 'pooled'"):
        fresh.calibrate(split, groups="category", unknown_group="edge")


def test_groups_where_there_are_none_and_wrong_types(grouped, artifact, splits):
    x = splits[2].embeddings
    plain, device = DeviceRouter.load(artifact, 1.0, 0.05), grouped[0].device(1.0, 0.1)
    assert plain.groups is None
    assert plain.threshold_of() == plain.threshold
    with pytest.raises(
        cr2fast.Cr2Error, match="group: expected none, since the router was calibrated without"
    ):
        plain.route(x[0], group="a")
    with pytest.raises(cr2fast.Cr2Error, match="calibrated without groups"):
        plain.route_batch(x, groups=["a"] * len(x))
    with pytest.raises(cr2fast.Cr2Error, match="groups: expected length"):
        device.route_batch(x, groups=["a"])
    for wrong in ("abc", 7, [1] * len(x)):
        with pytest.raises(TypeError, match="groups: expected a list of names"):
            device.route_batch(x, groups=wrong)
    with pytest.raises(TypeError):
        device.route(x[0], group=3)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g.update(names=[]),
        lambda g: g.update(names=g["names"][::-1]),
        lambda g: g.update(names=[g["names"][0]] * len(g["names"])),
        lambda g: g.update(names=g["names"][:-1]),
        lambda g: g.update(n=[0] * len(g["n"])),
        lambda g: g.update(n=[2**63] * len(g["n"])),
        lambda g: g.update(names=["x" * 10**6, *g["names"][1:]]),
        lambda g: g.update(pooled="yes"),
    ],
)
def test_forged_groups_are_refused(grouped, change):
    def body(_, b):
        change(b["calibration"]["groups"])

    with pytest.raises(cr2fast.Cr2Error) as e:
        Router.from_bytes(rewritten(grouped[0].to_bytes(), body))
    assert len(str(e.value)) < 700


def test_queries_without_answers_are_grouped_alike(fitted, splits, grouped):
    split, router = splits[1], Router(fitted._core)
    queries = cr2fast.QueryTable(
        query_ids=split.query_ids,
        embeddings=split.embeddings,
        n_input_tokens=split.n_input_tokens,
        categories=split.categories,
        encoder=split.encoder,
    )
    report = router.calibrate(
        queries, lams=LAMS, alphas=ALPHAS, groups="category", on_infeasible="defer"
    )
    np.testing.assert_array_equal(report.groups.thresholds, grouped[1].groups.thresholds)


def test_command_line(grouped, splits, tmp_path, capsys):
    path, rows = tmp_path / "router.safetensors", tmp_path / "x.npy"
    grouped[0].save(path)
    np.save(rows, splits[2].embeddings[:4])
    name = grouped[1].groups.names[0]
    command = [
        "route",
        str(path),
        "--lam",
        "1",
        "--alpha",
        "0.1",
        "--embeddings",
        str(rows),
        "--json",
    ]
    for more, threshold in [
        (["--group", name], grouped[0].device(1.0, 0.1).threshold_of(name)),
        (["--group", "never seen"], "defer all"),
        ([], "defer all"),
    ]:
        assert main([*command, *more]) == 0
        said = json.loads(capsys.readouterr().out)
        assert {row["threshold"] for row in said} == {threshold}
        assert main([*command, *more, "--n-input-tokens", "30"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert {row["threshold"] for row in said} == {threshold}
    assert main(["inspect", str(path)]) == 0
    assert f"groups       {name} (" in capsys.readouterr().out
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"]["groups"]["unknown"] == "defer"


def test_an_evaluation_judges_what_is_served():
    """Each query by its group's threshold, and unknown groups as the calibration said."""
    problem = make_routing_problem(n=1500, d=16, seed=0)
    train, calibration, test = problem.table.split((0.5, 0.25, 0.25), seed=0)
    router = cr2fast.fit(
        train, problem.costs, hidden=8, teacher_epochs=1, gate_epochs=1, progress=False
    )
    names = ["a" if c in calibration.categories[:40] else "b" for c in calibration.categories]
    for unknown in ("defer", "pooled"):
        router.calibrate(
            calibration, alphas=(0.1,), groups=names, unknown_group=unknown, on_infeasible="defer"
        )
        groups = np.random.default_rng(0).choice(["a", "b", "new"], len(test)).tolist()
        result = cr2fast.evaluate(router, test, groups=groups)
        for k in (0, 10, 20):
            lam = float(result.lams[k])
            served = router.device(lam, 0.1).route_batch(test.embeddings, groups=groups)
            assert result.local_rate[k, 0] == served.mean()
    with pytest.raises(cr2fast.Cr2Error, match="groups: expected the queries' groups"):
        cr2fast.evaluate(router, test)
    router.calibrate(calibration, alphas=(0.1,))
    with pytest.raises(cr2fast.Cr2Error, match="groups: expected none, for a router"):
        cr2fast.evaluate(router, test, groups="category")
