"""The alarm and the rolling threshold keep their promises, by simulation and on real outcomes."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from cr2fast import RiskAlarm, RollingThreshold, _core
from cr2fast.datasets import load_folder

ALPHA, DELTA = 0.05, 0.01


def test_twice_the_risk_is_flagged_within_600_queries_in_nine_runs_of_ten():
    rng, runs = np.random.default_rng(0), 4000
    flagged = sum(
        RiskAlarm(ALPHA, DELTA).update_many(rng.random(600) < 2 * ALPHA) for _ in range(runs)
    )
    print(f"flagged within 600 queries in {flagged / runs:.1%} of {runs} runs")
    assert flagged / runs >= 0.9


def test_a_router_at_alpha_is_accused_in_at_most_delta_of_a_thousand_runs_of_a_million_queries():
    rng, runs = np.random.default_rng(1), 1000
    accused = sum(
        RiskAlarm(ALPHA, DELTA).update_many(rng.random(10**6, dtype=np.float32) < ALPHA)
        for _ in range(runs)
    )
    print(f"accused in {accused} of {runs} runs of a million queries")
    # Not for want of bets: wealth that was near the bound, or above it, did happen.
    assert 0 < accused / runs <= DELTA


def test_neither_drift_nor_looking_now_and_then_makes_more_false_alarms():
    """Risk wanders below alpha, each run in its own way; a tenth or a third of queries is looked at,
    with a probability that wanders too and follows the losses of before."""
    rng, runs, n = np.random.default_rng(2), 1000, 20_000
    accused = unweighted = 0
    for _ in range(runs):
        wave = np.sin(np.linspace(0, rng.uniform(1, 30), n) + rng.uniform(0, 7))
        losses = rng.random(n) < ALPHA * (1 - 0.3 * (1 + wave) * rng.random() / 2)
        recent = np.convolve(losses, np.ones(50) / 50)[:n]
        pi = np.where(np.concatenate([[0], recent[:-1]]) > ALPHA, 0.35, 0.1)
        looked = rng.random(n) < pi
        accused += RiskAlarm(ALPHA, DELTA).update_many(losses * looked, np.where(looked, 1 / pi, 0))
        # Only the losses looked at, as if they were all: wrong, and this sees it when pi follows losses.
        sees_more = rng.random(n) < np.where(losses, 0.35, 0.1)
        unweighted += RiskAlarm(ALPHA, DELTA).update_many(losses[sees_more])
    assert accused / runs <= DELTA
    assert unweighted / runs > 0.5


def test_weights_find_twice_the_risk_by_a_tenth_of_the_queries():
    rng, runs, n, pi = np.random.default_rng(3), 300, 8000, 0.1
    flagged = 0
    for _ in range(runs):
        losses, looked = rng.random(n) < 2 * ALPHA, rng.random(n) < pi
        flagged += RiskAlarm(ALPHA, DELTA).update_many(losses & looked, np.where(looked, 1 / pi, 0))
    assert flagged / runs > 0.9


@pytest.fixture(scope="module")
def pool(data_dir):
    """Margins, labels and categories of what training did not see, at one cost weight."""
    problem = load_folder(data_dir)
    train, *rest = problem.table.split()
    router = cr2fast.fit(train, problem.costs, progress=False, teacher_epochs=4, gate_epochs=6)
    margins, prefers, categories = [], [], []
    for part in rest:
        states = router.costs.sample_states(len(part), 5)
        c = router.decision_costs(part, states, "predicted")
        prefers.append(_core.choice_margins(router.accuracies(part.embeddings), c, [0.3])[0] < 0)
        margins.append(router.margins(part.embeddings, [0.3])[0])
        categories += part.categories
    return np.concatenate(margins), np.concatenate(prefers), np.array(categories)


@pytest.mark.parametrize("alpha", [0.01, 0.02, 0.05])
def test_after_a_category_is_swapped_for_another_the_risk_comes_back(pool, alpha):
    """Calibrated without one category, which then takes another's place. Mean of 100 runs: over the
    2,000 labels that follow the first 2,000. A fixed threshold stands beside it."""
    margins, prefers, categories = pool
    rng = np.random.default_rng(6)
    rolled, fixed = [], []
    for run in range(100):
        new, old = [("math", "law"), ("history", "physics")][run % 2]
        before = rng.permutation(np.flatnonzero(categories != new))
        calibration = before[: len(before) // 2]
        share = (categories[before] == old).mean()
        others = np.flatnonzero((categories != new) & (categories != old))
        swapped = rng.random(4000) < share
        live = np.where(
            swapped, rng.choice(np.flatnonzero(categories == new), 4000), rng.choice(others, 4000)
        )
        start = cr2fast.crc_thresholds(
            margins[None, calibration], prefers[None, calibration], [alpha]
        )
        start = float(start[0, 0])
        rolling = RollingThreshold(alpha, start, low=margins.min(), high=margins.max())
        seen = np.empty(4000, bool)
        for t, (margin, prefer) in enumerate(zip(margins[live], prefers[live], strict=True)):
            seen[t] = prefer and margin >= rolling.threshold
            rolling.update(margin, prefer)
        assert seen.sum() == rolling.losses
        rolled.append(seen[2000:].mean())
        fixed.append((prefers[live] & (margins[live] >= start))[2000:].mean())
    print(f"alpha {alpha}: rolling {np.mean(rolled):.4f}, fixed {np.mean(fixed):.4f}")
    assert np.mean(rolled) <= alpha + 0.005
    # The change is one that matters, and the rolling threshold does not just defer everything.
    assert np.mean(fixed) > alpha * 1.15
    assert np.mean(rolled) > alpha * 0.7
