"""One calibration, in Rust, against the same in plain NumPy: equal bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cr2fast
from cr2fast.calibration import allowed_counts
from testing import calibrated


def check(router, split, expected, **options):
    copy = cr2fast.Router.from_bytes(router.to_bytes())
    report = copy.calibrate(split, on_infeasible="defer", **options)
    np.testing.assert_array_equal(report.thresholds, expected["thresholds"])
    np.testing.assert_array_equal(copy.calibration["thresholds"], expected["thresholds"])
    np.testing.assert_array_equal(copy.calibration["quantiles"], expected["quantiles"])
    np.testing.assert_array_equal(report.empirical_risk, expected["empirical_risk"])
    np.testing.assert_array_equal(report.local_rate, expected["local_rate"])
    assert report.allowed == expected["allowed"]
    return report


@pytest.mark.parametrize("judge", ["teacher", "outcomes"])
@pytest.mark.parametrize("lengths", ["predicted", "known"])
@pytest.mark.parametrize("delta", [None, 0.1])
def test_thresholds_and_report_are_the_twins(router, splits, judge, lengths, delta):
    lams, alphas = [0.1, 0.3, 1.0, 4.0, 20.0], [0.001, 0.01, 0.05, 0.2]
    expected = calibrated.calibrated(
        router, splits[1], lams, alphas, judge=judge, lengths=lengths, delta=delta
    )
    options = {"lams": lams, "alphas": alphas, "judge": judge, "lengths": lengths}
    report = check(
        router, splits[1], expected, simultaneous=delta is not None, delta=delta, **options
    )
    assert (report.judge, report.lengths, report.delta) == (judge, lengths, delta)
    # Not trivial: some cells accept some queries, and some of these wrongly.
    assert ((report.local_rate > 0) & (report.local_rate < 1)).any()
    assert report.empirical_risk.max() > 0


@settings(max_examples=25)
@given(st.data())
def test_any_size_seed_and_number_of_threads(fitted, splits, data):
    n = data.draw(st.integers(1, len(splits[1])), "n")
    seed = data.draw(st.integers(0, 1000), "seed")
    threads = data.draw(st.sampled_from([0, 1, 2, 3]), "threads")
    start = data.draw(st.integers(0, len(splits[1]) - n), "start")
    split = splits[1].take(np.arange(start, start + n))
    lams = sorted(data.draw(st.sets(st.sampled_from([0.1, 0.2, 0.5, 1.0, 3.0, 9.0]), min_size=1)))
    alphas = [0.02, 0.1, 0.5]
    expected = calibrated.calibrated(fitted, split, lams, alphas, seed=seed)
    check(fitted, split, expected, lams=lams, alphas=alphas, seed=seed, threads=threads)


def test_ties_stand_or_fall_together(router, splits):
    """Every embedding eight times: margins tie in eights, r does not."""
    few = splits[1].take(np.arange(40))
    arrays = {k: v for k, v in vars(few).items() if isinstance(v, np.ndarray)}
    repeated = {k: np.repeat(v, 8, axis=0) for k, v in arrays.items()}
    ids = [f"tie-{i}" for i in range(320)]
    split = replace(few, **repeated | {"query_ids": tuple(ids), "categories": None, "extra": {}})
    lams, alphas = [0.3, 1.0], [0.01, 0.05, 0.3]
    expected = calibrated.calibrated(router, split, lams, alphas, judge="outcomes")
    check(router, split, expected, lams=lams, alphas=alphas, judge="outcomes")


@pytest.mark.parametrize("n", [1, 20, 99, 100, 1000, 2400])
@pytest.mark.parametrize("delta", [None, 0.01, 0.1, 0.5])
def test_counts_are_the_twins(n, delta):
    alphas = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
    for lams in (1, 7, 32):
        assert allowed_counts(n, alphas, lams, delta) == calibrated.allowed_counts(
            n, alphas, lams, delta
        )
