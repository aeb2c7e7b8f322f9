"""Within every group the risk is at most alpha, where the pooled threshold breaks it in some."""

from __future__ import annotations

import numpy as np
import pytest

from cr2fast import Router
from testing.calibrated import prefers_edge

LAM, ALPHA, DRAWS = 0.55, 0.1, 300


@pytest.fixture(scope="module")
def world(problem, fitted, splits):
    """What training did not see, and a group for each query: by how the gate and the teacher differ,
    as applications differ that a gate knows better or worse."""
    where = {q: i for i, q in enumerate(problem.table.query_ids)}
    table = problem.table.take([where[q] for part in splits[1:] for q in part.query_ids])
    margins = fitted.margins(table.embeddings, [LAM])[0]
    prefers = prefers_edge(fitted, table, [LAM])[0]
    rng = np.random.default_rng(0)
    hard = prefers & (margins > np.quantile(margins, 0.3))
    group = np.where(hard & (rng.random(len(table)) < 0.8), "hard", "easy")
    group[rng.random(len(table)) < 0.2] = "other"
    return table, margins, prefers, group


def test_the_promise_holds_within_each_group(fitted, world):
    table, margins, prefers, group = world
    router, rng = Router(fitted._core), np.random.default_rng(1)
    names = np.unique(group)
    pooled, own = [], []
    for _ in range(DRAWS):
        order = rng.permutation(len(table))
        calibration, test = order[: len(order) // 2], order[len(order) // 2 :]
        report = router.calibrate(
            table.take(calibration), lams=[LAM], alphas=[ALPHA], groups=group[calibration].tolist()
        )
        assert report.groups.names == tuple(names)
        device = router.device(LAM, ALPHA)
        local = device.route_batch(table.embeddings[test], groups=group[test].tolist())
        wrong = {"own": local & prefers[test]}
        wrong["pooled"] = (margins[test] >= device.threshold) & prefers[test]
        own.append([wrong["own"][group[test] == g].mean() for g in names])
        pooled.append([wrong["pooled"][group[test] == g].mean() for g in names])
    # Splits of one pool are dependent: forty independent ones are a cautious count for the error.
    mean, error = np.mean(own, axis=0), np.std(own, axis=0) / np.sqrt(40)
    assert (mean <= ALPHA + 4 * error).all(), mean
    assert np.mean(pooled, axis=0).max() > 1.5 * ALPHA
    # Not by deferring everything.
    assert (mean > ALPHA / 3).sum() >= 2, mean
