"""check_drift: alarms as often as it says, sees a shift, refuses what it cannot compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cr2fast
from cr2fast.calibration import drift
from testing.calibrated import order_statistics


def margins(router, table, lam):
    return router.margins(table.embeddings, [lam])[0]


def test_the_artifact_keeps_order_statistics(router, splits):
    lams, kept = router.calibration["lams"], router.calibration["quantiles"]
    n = len(splits[1])
    expected = np.sort(router.margins(splits[1].embeddings, lams), axis=1)
    ranks = drift.ranks(n, 255)
    assert kept.shape == (len(lams), 255)
    assert (ranks[0], ranks[-1]) == (2, n - 1)
    np.testing.assert_array_equal(kept, expected[:, ranks - 1])


def test_fresh_queries_pass_and_shifted_ones_do_not(router, splits):
    live = margins(router, splits[2], 1.0)
    same = router.check_drift(live, lam=1.0)
    assert not same.drifted
    assert not same
    assert (same.n, same.n_calibration, same.lam) == (len(live), len(splits[1]), 1.0)
    moved = router.check_drift(live + live.std(), lam=1.0)
    assert moved.drifted
    assert moved.p_value == 1e-4
    assert moved.live < moved.expected
    assert "drift at lam=1" in str(moved)
    assert "no drift found" in str(same)
    # Only what the device accepts: another population than the calibration set.
    assert router.check_drift(np.sort(live)[-100:], lam=1.0).drifted


def test_the_statistic_is_the_largest_gap(router, splits):
    live = np.sort(margins(router, splits[2], 1.0)).astype(float)
    report = router.check_drift(live, lam=1.0)
    c = router.calibration
    row = c["quantiles"][np.flatnonzero(c["lams"] == 1.0)[0]]
    gaps = [
        abs((live <= q).mean() - r / (c["n"] + 1))
        for q, r in zip(row, drift.ranks(c["n"], len(row)), strict=True)
    ]
    assert report.statistic == pytest.approx(max(gaps), abs=1 / len(live))


def test_small_calibration_sets_keep_every_margin():
    np.testing.assert_array_equal(drift.ranks(5, 5), [1, 2, 3, 4, 5])
    kept = order_statistics(np.array([[3.0, 1.0, 2.0]], dtype=np.float32))
    np.testing.assert_array_equal(kept, [[1, 2, 3]])
    assert drift.check([1.5], kept[0], 3, 1.0, 0.05).p_value > 0.05


@pytest.mark.parametrize(
    ("margins", "options", "words"),
    [
        ([], {"lam": 1.0}, "margins: expected a non-empty list of finite numbers"),
        ([0.1, float("nan")], {"lam": 1.0}, "with NaN or infinity"),
        ([[0.1]], {"lam": 1.0}, r"got shape \(1, 1\)"),
        ([0.1], {"lam": 1.05}, "lam=1.05: expected one of"),
        ([0.1], {}, "lam=None: expected one of"),
        ([0.1], {"lam": 1.0, "level": 1e-6}, "level: expected a number from 0.001 to below 1"),
        ([0.1], {"lam": 1.0, "level": "a"}, "level: expected a number"),
        ([0.1], {"lam": "a"}, "lam='a': expected one of"),
        ([0.1], {"lam": 1.000009}, "lam=1.000009: expected one of"),
        (["a"], {"lam": 1.0}, "margins: expected a list of numbers"),
    ],
)
def test_what_cannot_be_compared_is_refused(router, margins, options, words):
    with pytest.raises(cr2fast.Cr2Error, match=words):
        router.check_drift(margins, **options)


def test_a_router_without_a_calibration_says_so(fitted):
    with pytest.raises(cr2fast.Cr2Error, match="call calibrate first"):
        cr2fast.Router(fitted._core).check_drift([0.1], lam=1.0)


def test_an_artifact_of_an_earlier_version_says_so():
    router = cr2fast.Router.load(Path(__file__).parents[1] / "golden" / "router.safetensors")
    assert router.calibration["delta"] is None
    with pytest.raises(cr2fast.Cr2Error, match="earlier version"):
        router.check_drift([0.1], lam=1.0)
