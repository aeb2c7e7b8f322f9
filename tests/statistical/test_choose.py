"""Promises of chosen operating points, by simulation: validation sets drawn from a known population.

A promise is broken where the chosen point, over the whole population, fails a wish. It must happen
in at most a fraction delta of draws, also where all points fail a wish by next to nothing.
"""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from cr2fast.evaluation import choose
from cr2fast.evaluation.queries import Grid, Queries

DRAWS = 1000
N = 500
DELTA = 0.1
POPULATION, L, A, CLIP = 30_000, 8, 3, 10.0
FIGURES = ("accuracy", "cost", "latency_s", "latency_p95_s", "energy_j", "usd")
# Above delta by no more than this, three standard errors of a rate of delta.
ROOM = 3 * np.sqrt(DELTA * (1 - DELTA) / DRAWS)


def population(seed):
    """Queries, three models, and operating points from all on the big model to all on the device."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(size=POPULATION)
    skill = np.array([-0.6, 0.2, 0.9])
    correct = (ease[:, None] + skill + rng.normal(size=(POPULATION, 3)) > 0).astype(float)
    tail = rng.lognormal(0, 0.9, size=(POPULATION, 3))
    latency = np.array([0.3, 0.8, 2.0]) * tail
    usd = np.array([1e-5, 2e-4, 1e-3]) * tail
    noisy = ease + rng.normal(size=POPULATION)
    chosen = np.empty((L, A, POPULATION), dtype=np.uint8)
    for i in range(L):
        for j in range(A):
            device = noisy > np.quantile(noisy, 1 - (i + 0.3 * j) / (L + 1))
            middle = noisy > np.quantile(noisy, 1 - (i + 1 + 0.3 * j) / (L + 1))
            chosen[i, j] = np.where(device, 0, np.where(middle, 1, 2))
    by_model = {
        "accuracy": correct, "cost": usd / 1e-3, "latency_s": latency,
        "energy_j": np.full_like(usd, np.nan), "usd": usd,
    }  # fmt: skip
    return Queries(chosen, by_model, np.zeros((POPULATION, 1), dtype=np.uint64))


def grid_of(everyone, rows):
    queries = Queries(
        everyone.chosen[:, :, rows],
        {k: v[rows] for k, v in everyone.by_model.items()},
        everyone.content[rows],
    )
    lines = {k: np.array([queries.line(k, i) for i in range(L)]) for k in queries.by_model}
    figures = {k: v.mean(axis=-1) for k, v in lines.items()}
    figures["latency_p95_s"] = np.quantile(lines["latency_s"], 0.95, axis=-1)
    return Grid(
        lams=np.arange(1.0, L + 1), alphas=np.array([0.01, 0.02, 0.05]), figures=figures,
        queries=queries, false_acceptances=np.zeros((L, A), dtype=np.int64),
        local_rate=(queries.chosen == 0).mean(axis=-1), big_model=("big", 2), router="",
    )  # fmt: skip


def truths(everyone, asked):
    """Where each wish holds in expectation over the population, (L, A): costs cut as promised."""
    good = np.ones((L, A), dtype=bool)
    for i in range(L):
        y = everyone.line("accuracy", i)
        late, usd = everyone.line("latency_s", i), everyone.line("usd", i)
        big = everyone.by_model["accuracy"][:, 2]
        for name, bound in asked.items():
            good[i] &= {
                "min_accuracy": lambda b, y=y: y.mean(axis=-1) >= b,
                "relative_accuracy": lambda b, y=y, big=big: y.mean(axis=-1) >= b * big.mean(),
                "max_latency_p95_s": lambda b, late=late: (late > b).mean(axis=-1) <= 0.05,
                "max_latency_s": lambda b, late=late: np.minimum(late, CLIP * b).mean(axis=-1) <= b,
                "max_usd": lambda b, usd=usd: np.minimum(usd, CLIP * b).mean(axis=-1) <= b,
            }[name](bound)
    return good


def draws(everyone, asked, n, delta, seed=0, count=DRAWS):
    """How often a promise is broken, and how often a point is chosen at all."""
    rng = np.random.default_rng(seed)
    good = truths(everyone, asked)
    broken = chosen = 0
    for _ in range(count):
        grid = grid_of(everyone, rng.integers(POPULATION, size=n))
        try:
            point = choose.choose(grid, asked, delta, CLIP)
        except cr2fast.InfeasibleWishError:
            continue
        chosen += 1
        i, j = int(point.lam) - 1, grid.alphas.tolist().index(point.alpha)
        broken += not good[i, j]
    return broken / count, chosen / count


WISHES = {
    "accuracy": {"min_accuracy": 0.62},
    "relative": {"relative_accuracy": 0.88},
    "late": {"max_latency_p95_s": 4.0},
    "all": {
        "relative_accuracy": 0.6,
        "max_usd": 0.0012,
        "max_latency_p95_s": 8.0,
        "max_latency_s": 2.6,
    },
}


@pytest.mark.parametrize("name", WISHES)
def test_a_promise_is_broken_as_rarely_as_it_says(name):
    everyone = population(1)
    good = truths(everyone, WISHES[name])
    assert 0 < good.sum() < good.size
    rate, chosen = draws(everyone, WISHES[name], N, DELTA)
    assert rate <= DELTA + ROOM
    # Not by choosing nothing.
    assert chosen > 0.3
    # Without a promise the best of many points breaks wishes often, and this sees it.
    plain, _ = draws(everyone, WISHES[name], N, None, count=100)
    assert plain > 2 * DELTA


@pytest.mark.parametrize("name", ["accuracy", "usd", "late"])
def test_points_that_all_fail_by_next_to_nothing_are_seldom_chosen(name):
    everyone = population(2)
    # One and the same decision everywhere, whose expectation lies on the wrong side of the bound.
    everyone.chosen[:] = everyone.chosen[L // 2, 0]
    y, late, usd = (everyone.of(k, 0, 0) for k in ("accuracy", "latency_s", "usd"))
    budget = float(usd.mean())
    for _ in range(60):
        budget = float(np.minimum(usd, CLIP * budget).mean())
    asked = {
        "accuracy": {"min_accuracy": float(y.mean()) + 1e-6},
        "usd": {"max_usd": budget * (1 - 1e-6)},
        "late": {"max_latency_p95_s": float(np.quantile(late, 0.9499))},
    }[name]
    assert not truths(everyone, asked).any()
    rate, _ = draws(everyone, asked, 300, DELTA)
    assert rate <= DELTA + ROOM
