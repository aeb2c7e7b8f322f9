"""Estimates from outcomes of some queries: the definitions, hostile input, and the alarm's inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast.evaluation.intervals import binomial_interval
from cr2fast.evaluation.offpolicy import alarm_inputs, estimate, of_policy

ROWS = st.lists(
    st.tuples(st.floats(-3, 3), st.floats(0.05, 1), st.booleans(), st.floats(-3, 3)),
    min_size=3, max_size=40,
)  # fmt: skip


@given(ROWS)
def test_values_are_the_definitions(rows):
    y, pi, seen, m = map(np.array, zip(*rows, strict=True))
    seen |= pi == 1
    if seen.sum() < 2:
        return
    with_nan = np.where(seen, y, np.nan)
    ips = sum(a / p for a, p, s in zip(y, pi, seen, strict=True) if s) / len(y)
    weights = sum(1 / p for p, s in zip(pi, seen, strict=True) if s)
    robust = np.mean([b + (a - b) / p * s for a, p, s, b in zip(y, pi, seen, m, strict=True)])
    for found, expected in [
        (estimate(with_nan, pi, method="ips"), ips),
        (estimate(with_nan, pi), ips * len(y) / weights),
        (estimate(with_nan, pi, predicted=m), robust),
    ]:
        assert found.value == pytest.approx(expected, abs=1e-9)
        assert found.low <= found.value + 1e-9
        assert found.high >= found.value - 1e-9
        assert (found.n, found.seen) == (len(y), seen.sum())
    assert estimate(y, pi, seen=seen) == estimate(with_nan, pi)


def test_looked_at_alike_it_is_wilsons_interval():
    y = np.array([1.0] * 7 + [0.0] * 93)
    found = estimate(y, np.ones(100))
    assert found.value == 0.07
    assert (found.low, found.high) == pytest.approx((0.0343, 0.1375), abs=2e-4)
    exact = binomial_interval(7, 100)
    assert exact[0] < found.low < found.high < exact[1] + 1e-3
    assert found.effective_n == pytest.approx(100)
    assert "0.0700 [0.0343, 0.1375] (95%, self-normalised, 100 of 100 queries seen" in str(found)


def test_a_policy_is_seen_where_it_agrees_and_by_shadows():
    y, pi = of_policy(
        [True, True, False, False],
        [True, False, False, True],
        [1.0, 0.0, 1.0, 1.0],
        [np.nan, 0.5, np.nan, np.nan],
        [0.1, 0.2, 0.0, 0.4],
    )
    np.testing.assert_array_equal(y, [1, 0.5, 1, np.nan])
    np.testing.assert_array_equal(pi, [1, 0.2, 1, 0.4])
    with pytest.raises(cr2fast.Cr2Error, match="1 queries with 0: what the other side"):
        of_policy([True], [False], [1.0], [np.nan], [0.0])


def test_the_alarm_takes_them():
    losses, weights = alarm_inputs([1.0, np.nan, 0.0, np.nan], [0.5, 0.5, 0.1, 0.2])
    np.testing.assert_array_equal(losses, [1, 0, 0, 0])
    np.testing.assert_array_equal(weights, [2, 0, 10, 0])
    alarm = cr2fast.RiskAlarm(0.05, 0.01)
    alarm.update_many(losses, weights)
    assert (alarm.n, alarm.mean) == (4, 0.5)


def test_bad_input():
    y, pi = [1.0, 0.0, np.nan], [0.5, 0.5, 0.5]
    for outcomes, propensities, options, words in [
        ([], [], {}, "outcomes: expected at least one"),
        ([[1.0]], [1.0], {}, "outcomes: expected at least one numbers in a list, got shape"),
        (["a"], [1.0], {}, "outcomes: expected a list of numbers"),
        (y, [0.5], {}, "propensities: expected 3 numbers"),
        (y, [0.5, 0.5, 0.0], {}, "propensities: expected probabilities .* got 0.0"),
        (y, [0.5, 0.5, 1.1], {}, "got 1.1"),
        (y, [0.5, 0.5, np.nan], {}, "got nan"),
        (y, [0.5, 0.5, 1.0], {}, "one for each query of propensity 1, got 1 without"),
        ([1.0, np.inf, np.nan], pi, {}, "finite numbers where seen"),
        ([1.0, np.nan, np.nan], pi, {}, "at least two seen, got 1"),
        (y, pi, {"seen": [1, 1, 0]}, "seen: expected 3 booleans"),
        (y, pi, {"seen": [True] * 3}, "finite numbers where seen"),
        (y, pi, {"predicted": [0.0]}, "predicted: expected 3 numbers"),
        (y, pi, {"predicted": [0, 0, np.nan]}, "predicted: expected finite"),
        (y, pi, {"method": "doubly-robust"}, "expected predictions for every query"),
        (
            y,
            pi,
            {"method": "magic"},
            "method: expected 'ips', 'self-normalised' or 'doubly-robust'",
        ),
        (y, pi, {"level": 1.0}, "level: expected a number in"),
        (np.ma.masked_array([1.0, 0, 0], [0, 0, 1]), pi, {}, "without a mask"),
    ]:
        with pytest.raises(cr2fast.Cr2Error, match=words) as e:
            estimate(outcomes, propensities, **options)
        assert len(str(e.value)) < 400
