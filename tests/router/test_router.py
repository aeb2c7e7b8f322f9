"""Router.calibrate: thresholds from the very arithmetic that serves, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cr2fast
from cr2fast import _core
from testing import oracle
from testing.calibrated import largest_count


@pytest.fixture
def fresh(fitted):
    return cr2fast.Router(fitted._core)


@pytest.mark.parametrize("judge", ["teacher", "outcomes"])
@pytest.mark.parametrize("lengths", ["predicted", "known"])
def test_thresholds_are_the_definition_on_served_margins(fresh, splits, judge, lengths):
    calibration = splits[1]
    report = fresh.calibrate(
        calibration,
        alphas=(0.01, 0.1),
        lams=[0.2, 1.0, 5.0],
        judge=judge,
        lengths=lengths,
        seed=4,
    )
    states = fresh.costs.sample_states(len(calibration), 1_000_003 + 4)
    c = fresh.decision_costs(calibration, states, lengths)
    p = fresh.accuracies(calibration.embeddings)
    if judge == "outcomes":
        p = calibration.correct.astype(np.float32)
    for i, lam in enumerate((0.2, 1.0, 5.0)):
        margins = np.array([fresh.device(lam, 0.1).route(x).margin for x in calibration.embeddings])
        prefers = np.array([oracle.margin(a, b, lam) < 0 for a, b in zip(p, c, strict=True)])
        for j, alpha in enumerate((0.01, 0.1)):
            assert report.thresholds[i, j] == oracle.crc_threshold(margins, prefers, alpha)
            assert (
                report.empirical_risk[i, j]
                == (prefers & (margins >= report.thresholds[i, j])).mean()
            )
            assert report.local_rate[i, j] == (margins >= report.thresholds[i, j]).mean()
            assert fresh.device(lam, alpha).threshold == report.thresholds[i, j]
    assert report.allowed == (4, 49)
    assert (fresh.calibration["judge"], fresh.calibration["lengths"]) == (judge, lengths)


def test_a_simultaneous_calibration_allows_fewer_and_says_so(fresh, splits, tmp_path):
    grid = {"alphas": (0.05, 0.1), "lams": [0.5, 1.0, 2.0]}
    alone = fresh.calibrate(splits[1], **grid)
    both = fresh.calibrate(splits[1], simultaneous=True, delta=0.2, **grid)
    n = len(splits[1])
    assert both.allowed == tuple(largest_count(n, a, 0.2 / 6) for a in (0.05, 0.1))
    assert all(a > b for a, b in zip(alone.allowed, both.allowed, strict=True))
    assert (both.thresholds >= alone.thresholds).all()
    scores = fresh.margins(splits[1].embeddings, both.lams)
    assert ((scores[:, None] >= both.thresholds[:, :, None]).mean(2) == both.local_rate).all()
    assert "With probability at least 1 - 0.2" in both.statement
    assert "at once (3 x 2)" in both.statement
    assert "drawn independently" in both.statement
    assert (alone.delta, both.delta) == (None, 0.2)
    path = tmp_path / "r.safetensors"
    fresh.save(path)
    loaded = cr2fast.Router.load(path)
    assert loaded.calibration["delta"] == 0.2
    assert loaded.statement == both.statement
    assert loaded.to_bytes() == fresh.to_bytes()
    assert np.isfinite(cr2fast.evaluate(loaded, splits[2]).p_value).all()


def test_a_simultaneous_promise_that_cannot_be_made_is_refused(fresh, splits):
    options = {"alphas": (0.005, 0.1), "lams": [0.5, 1.0], "simultaneous": True}
    with pytest.raises(cr2fast.InfeasibleAlphaError, match="alpha=0.005 .* 2 x 2 cells at once"):
        fresh.calibrate(splits[1], **options)
    report = fresh.calibrate(splits[1], on_infeasible="defer", **options)
    assert report.infeasible == (0.005,)
    assert (report.thresholds[:, 0] == np.inf).all()
    assert "all queries deferred: (0.005,)" in report.statement
    for delta in (0.0, 1.0, float("nan"), "often"):
        with pytest.raises(cr2fast.Cr2Error, match="delta: expected a number in"):
            fresh.calibrate(splits[1], simultaneous=True, delta=delta)
    with pytest.raises(cr2fast.Cr2Error, match="on_infeasible"):
        fresh.calibrate(splits[1], simultaneous=True, on_infeasible="hope")
    with pytest.raises(cr2fast.Cr2Error, match="strictly between 0 and 1, got 1.5"):
        fresh.calibrate(splits[1], simultaneous=True, alphas=(0.1, 1.5))
    with pytest.raises(
        cr2fast.Cr2Error, match="delta: expected no delta without simultaneous=True"
    ):
        fresh.calibrate(splits[1], delta=0.2)


def test_the_default_grid_is_typable_and_holds_one():
    lams = cr2fast.default_lams()
    assert len(lams) == 32
    assert 1.0 in lams
    assert (lams[0], lams[-1]) == (0.1, 20.0)
    assert (np.diff(lams) > 0).all()
    assert all(float(f"{x:.2g}") == x for x in lams)
    assert (np.diff(np.log(lams)) < 0.3).all()
    inside = cr2fast.default_lams(0.123, 0.456, 5)
    assert inside[0] >= 0.123
    assert inside[-1] <= 0.456
    with pytest.raises(cr2fast.Cr2Error, match="lams: expected 0 < low < high"):
        cr2fast.default_lams(2, 1)


def test_a_report_says_the_guarantee_and_its_limits(fresh, splits):
    report = fresh.calibrate(splits[1])
    assert fresh.statement == report.statement
    for words in (
        "fixed in advance",
        "at most alpha",
        "500",
        "Not simultaneous",
        "link distribution",
    ):
        assert words in report.statement
    json.dumps(report.to_dict(), allow_nan=False)
    assert (report.empirical_risk <= np.array([k / 500 for k in report.allowed])).all()


def test_infeasible_alpha_raises_or_defers_and_says_so(fresh, splits):
    with pytest.raises(
        cr2fast.InfeasibleAlphaError,
        match="alpha=0.001 .*500 calibration samples: expected at least 999",
    ):
        fresh.calibrate(splits[1], alphas=(0.001, 0.05))
    assert fresh.calibration is None
    report = fresh.calibrate(splits[1], alphas=(0.001, 0.05), on_infeasible="defer")
    assert report.infeasible == (0.001,)
    assert "Infeasible with 500 samples, all queries deferred: (0.001,)" in report.statement
    assert report.allowed == (None, 24)
    assert (report.local_rate[:, 0] == 0).all()
    assert not fresh.device(1.0, 0.001).route_batch(splits[2].embeddings).any()
    assert report.to_dict()["thresholds"][0][0] == "defer all"


def test_a_single_calibration_query(fresh, splits):
    one = splits[1].take([0])
    report = fresh.calibrate(one, alphas=(0.4, 0.5, 0.9), on_infeasible="defer")
    assert report.allowed == (None, 0, 0)
    # k = 0: the one query is kept only where it prefers the local model.
    states = fresh.costs.sample_states(1, 1_000_003)
    c = fresh.decision_costs(one, states, "predicted")
    prefers = _core.choice_margins(fresh.accuracies(one.embeddings), c, report.lams)[:, 0] < 0
    np.testing.assert_array_equal(report.thresholds[:, 1] == -np.inf, ~prefers)


def test_calibration_that_overlaps_training_is_refused_by_id(fresh, splits, problem, artifact):
    both = problem.table.take(range(400))
    with pytest.raises(
        cr2fast.SplitOverlapError,
        match="calibration split: .*disjoint from the training split, got .* shared",
    ):
        fresh.calibrate(both)
    with pytest.raises(cr2fast.SplitOverlapError, match="training"):
        cr2fast.Router.load(artifact).calibrate(splits[0].take([7]))


def test_single_precision_alphas_mean_what_is_written(fresh, splits):
    fresh.calibrate(splits[1], alphas=np.float32([0.05]), lams=np.float32([0.2, 1.0]))
    assert fresh.device(0.2, 0.05).alpha == 0.05


def test_calibrating_does_not_change_devices_made_before(fresh, splits):
    fresh.calibrate(splits[1], alphas=(0.1,))
    device = fresh.device(1.0, 0.1)
    before = device.threshold
    fresh.calibrate(splits[1].take(range(50)), alphas=(0.1,))
    assert device.threshold == before != fresh.device(1.0, 0.1).threshold


def test_an_uncalibrated_router_says_what_to_do(fresh, tmp_path):
    assert fresh.calibration is None
    with pytest.raises(cr2fast.OperatingPointError, match="run Router.calibrate"):
        fresh.device(1.0)
    assert fresh.statement == "Not calibrated: no promise yet."
    fresh.save(tmp_path / "r.safetensors")
    with pytest.raises(cr2fast.OperatingPointError, match="run Router.calibrate"):
        cr2fast.DeviceRouter.load(tmp_path / "r.safetensors", 1.0)


def test_other_types_are_named(fresh, splits):
    with pytest.raises(TypeError, match="calibration split: expected a RoutingTable, got NoneType"):
        fresh.calibrate(None)
    with pytest.raises(TypeError, match="costs: expected a CostTable, got str"):
        fresh.calibrate(splits[1], "costs.json")


def test_an_encoder_must_be_an_encoder(artifact):
    with pytest.raises(TypeError, match="encoder: expected an EncoderInfo, got str"):
        cr2fast.Router.load(artifact, encoder="mpnet")


def test_other_tables_are_refused(fresh, splits, problem):
    from dataclasses import replace

    other = replace(splits[1], models=("device-s", "edge-2", "edge-1", "edge-3"))
    with pytest.raises(
        cr2fast.Cr2Error, match="models of the calibration split: expected .* in this order"
    ):
        fresh.calibrate(other)
    other = replace(splits[1], encoder=cr2fast.EncoderInfo("other"))
    with pytest.raises(cr2fast.ArtifactError, match="got other"):
        fresh.calibrate(other)
    table = json.loads(problem.costs.to_json())
    table["models"][2]["p_active_w"] += 1
    with pytest.raises(
        cr2fast.Cr2Error, match="costs: expected the cost table the router was fitted with"
    ):
        fresh.calibrate(splits[1], cr2fast.CostTable.from_json(json.dumps(table)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"lams": [0.01]},
            r"lams: expected values in the trained range \[0.1, 20.0\], got \[0.01\]",
        ),
        ({"lams": []}, "lams: expected a non-empty list"),
        ({"lams": [1.0, 1.0]}, "lams: expected distinct values"),
        ({"lams": [float("nan")]}, "lams: expected a non-empty list of numbers"),
        ({"alphas": "x"}, "alphas: expected a non-empty list of numbers, got 'x'"),
        ({"alphas": ()}, "alphas: expected a non-empty list"),
        ({"alphas": (1.5,)}, "alpha: expected a risk level"),
        ({"judge": "vibes"}, "judge: expected 'teacher' or 'outcomes'"),
        ({"lengths": "guessed"}, "lengths: expected 'predicted' or 'known'"),
        ({"on_infeasible": "hope"}, "on_infeasible: expected"),
        ({"seed": -3}, "seed: expected a whole number"),
    ],
)
def test_bad_options_are_named(fresh, splits, options, words):
    with pytest.raises(cr2fast.Cr2Error, match=words):
        fresh.calibrate(splits[1], **options)
