"""Calibration on few queries: what they can promise, what they cannot, and who says so (item 13)."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from cr2fast.calibration import ALPHAS


@pytest.fixture
def fresh(fitted):
    return cr2fast.Router(fitted._core)


@pytest.mark.parametrize(("n", "kept"), [(30, 1), (60, 2), (150, 3), (300, 4), (500, 5)])
def test_the_default_levels_are_those_that_n_can_promise(fresh, splits, n, kept):
    report = fresh.calibrate(splits[1].take(range(n)))
    assert report.alphas.tolist() == list(ALPHAS[-kept:])
    assert report.left_out == tuple(ALPHAS[:-kept])
    assert report.infeasible == ()
    if kept < 5:
        words = ", ".join(f"{a:g}" for a in ALPHAS[:-kept])
        assert (
            f"Left out, since {n} samples cannot promise so little: alpha {words}"
            in report.statement
        )
    assert report.to_dict()["left_out"] == report.left_out
    assert np.isfinite(report.thresholds).any()
    # A device that is told no level takes the nearest to 0.01, and says which.
    assert fresh.device(1.0).alpha == min(report.alphas, key=lambda a: abs(a - 0.01))


def test_levels_that_are_asked_for_still_raise(fresh, splits):
    few = splits[1].take(range(30))
    with pytest.raises(cr2fast.InfeasibleAlphaError, match="alpha=0.01 is infeasible with 30"):
        fresh.calibrate(few, alphas=(0.01, 0.05))
    report = fresh.calibrate(few, alphas=(0.01, 0.05), on_infeasible="leave out")
    assert (report.alphas.tolist(), report.left_out) == ([0.05], (0.01,))
    report = fresh.calibrate(few, on_infeasible="defer")
    assert report.infeasible == ALPHAS[:-1]
    with pytest.raises(cr2fast.InfeasibleAlphaError):
        fresh.calibrate(splits[1].take(range(5)))


def test_a_simultaneous_promise_is_of_what_is_left(fresh, splits):
    report = fresh.calibrate(splits[1].take(range(400)), simultaneous=True, lams=[0.5, 1.0])
    assert report.left_out
    assert f"(2 x {len(report.alphas)})" in report.statement
    again = fresh.calibrate(
        splits[1].take(range(400)), simultaneous=True, lams=[0.5, 1.0], alphas=report.alphas
    )
    np.testing.assert_array_equal(report.thresholds, again.thresholds)
    assert report.allowed == again.allowed


def test_the_least_level_that_the_message_names_is_accepted(fresh, splits):
    """Item 7: 1/(N+1) computed in floating point, at N where it rounds down."""
    rounded_down = 0
    for n in range(20, 500, 7):
        part = splits[1].take(range(n))
        with pytest.raises(cr2fast.InfeasibleAlphaError) as caught:
            fresh.calibrate(part, alphas=(0.9 / (n + 1),), lams=[1.0])
        least = float(str(caught.value).split("here ")[1].split(")")[0])
        assert least == 1 / (n + 1)
        assert fresh.calibrate(part, alphas=(least,), lams=[1.0]).allowed == (0,)
        for m in (2, 3, 5):
            assert fresh.calibrate(part, alphas=(m / (n + 1),), lams=[1.0]).allowed == (m - 1,)
        rounded_down += int(np.float64(least).as_integer_ratio()[0] * (n + 1)
                            < np.float64(least).as_integer_ratio()[1])  # fmt: skip
    assert rounded_down > 10
