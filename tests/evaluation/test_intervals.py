"""Exact intervals: defining property, known values, coverage."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from cr2fast.evaluation.intervals import binomial_interval, risk_tail
from testing.calibrated import largest_count


def tail_at_least(k, n, p):
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 10), (9, 10), (10, 10), (24, 300)])
def test_bounds_put_the_count_in_a_tail(k, n):
    low, high = binomial_interval(k, n)
    assert 0 <= low <= k / n <= high <= 1
    if k:
        assert tail_at_least(k, n, low) == pytest.approx(0.025, abs=1e-9)
    if k < n:
        assert 1 - tail_at_least(k + 1, n, high) == pytest.approx(0.025, abs=1e-9)


def test_the_rule_of_three_like_value():
    assert binomial_interval(0, 100)[1] == pytest.approx(1 - 0.025 ** (1 / 100), abs=1e-12)


def test_coverage_is_at_least_the_level():
    rng = np.random.default_rng(0)
    for p in (0.01, 0.2):
        counts = rng.binomial(200, p, size=4000)
        inside = [
            low <= p <= high for low, high in (binomial_interval(int(k), 200) for k in counts)
        ]
        assert np.mean(inside) >= 0.95 - 0.01


@pytest.mark.parametrize("args", [(-1, 10), (11, 10), (0, 0), (1, 2, 1.0)])
def test_bad_arguments_are_named(args):
    with pytest.raises(ValueError, match="expected 0 <= count <= n"):
        binomial_interval(*args)


def test_risk_tail_is_the_law_of_calibrated_thresholds():
    """Simulate: threshold from N samples, count on n others; compare with the beta-binomial tail."""
    rng = np.random.default_rng(1)
    n_cal, n, k, runs = 99, 60, 4, 20_000
    cal = np.sort(rng.random((runs, n_cal)), axis=1)
    thresholds = cal[:, -(k + 1)]
    counts = (rng.random((runs, n)) > thresholds[:, None]).sum(1)
    for at_least in (0, 1, 3, 6, 10):
        expected = (counts >= at_least).mean()
        assert risk_tail(at_least, n, k, n_cal) == pytest.approx(expected, abs=0.012)


def test_largest_count_is_the_last_that_fits():
    for n, p, level in ((20, 0.3, 0.1), (100, 0.05, 0.01), (7, 0.5, 0.4), (400, 0.01, 0.02)):
        cdf = np.cumsum([comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])
        fits = np.flatnonzero(cdf <= level)
        assert largest_count(n, p, level) == (fits[-1] if fits.size else None)
    assert largest_count(20, 0.01, 0.1) is None
