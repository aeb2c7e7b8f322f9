"""Intervals of off-policy estimates cover as often as they say, over 500 simulated logs."""

from __future__ import annotations

import numpy as np
import pytest

from cr2fast.evaluation.offpolicy import estimate, of_policy

LOGS = 500


def covered(draw, truth, **options):
    found = [estimate(*log, **options, **more) for log, more in map(draw, range(LOGS))]
    return np.mean([e.low <= truth <= e.high for e in found]), found


@pytest.mark.parametrize("method", ["ips", "self-normalised", "doubly-robust"])
@pytest.mark.parametrize(("n", "rate"), [(2000, 0.5), (4000, 0.15), (8000, 0.05)])
def test_shadows_cover_at_95_percent(method, n, rate):
    """Shadows with a probability that follows the query, as do the outcomes: rates of ones from a
    half down to the rare false acceptance. The true mean is known."""
    rng = np.random.default_rng(n)

    def draw(_):
        x = rng.random(n)
        p = rate * (0.4 + 1.2 * x)
        y = (rng.random(n) < p).astype(float)
        pi = 0.1 + 0.4 * (1 - x)
        y[rng.random(n) >= pi] = np.nan
        # A prediction that is not quite right.
        return (y, pi), {"predicted": 0.8 * p + 0.02} if method == "doubly-robust" else {}

    share, found = covered(draw, rate, method=method)
    print(f"{method}, rate {rate}: {share:.1%} of {LOGS} intervals cover")
    assert 0.93 <= share <= 0.97, share
    assert abs(np.mean([e.value for e in found]) - rate) < 0.02 * rate + 0.003


def test_another_policy_covers_at_95_percent():
    """Last week's traffic under another threshold: where it agrees the answer was served, elsewhere
    it is a shadow's."""
    rng, n = np.random.default_rng(0), 3000
    grid = np.random.default_rng(1).random(2_000_000)
    truth = np.where(grid > 0.4, 0.9 * grid, 0.7).mean()

    def draw(_):
        x = rng.random(n)
        on_device, at_edge = rng.random(n) < 0.9 * x, rng.random(n) < 0.7
        logged, target = x > 0.6, x > 0.4
        served = np.where(logged, on_device, at_edge).astype(float)
        shadow = np.where(logged, at_edge, on_device).astype(float)
        shadow[rng.random(n) >= 0.2] = np.nan
        return of_policy(logged, target, served, shadow, np.full(n, 0.2)), {}

    share, _ = covered(draw, truth)
    assert 0.93 <= share <= 0.97, share


def test_leaving_out_the_weights_does_not_cover_and_this_sees_it():
    rng, n = np.random.default_rng(3), 4000

    def draw(_):
        x = rng.random(n)
        y = (rng.random(n) < 0.2 * (0.4 + 1.2 * x)).astype(float)
        y[rng.random(n) >= 0.1 + 0.4 * (1 - x)] = np.nan
        kept = y[~np.isnan(y)]
        return (kept, np.ones(len(kept))), {}

    share, _ = covered(draw, 0.2)
    assert share < 0.6
