"""The cost weights that a fit learns: from the data, or as they are given."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import cr2fast
from cr2fast import _core
from cr2fast.datasets import make_routing_problem
from testing.artifacts import put, rewritten

TINY = {"hidden": 8, "teacher_epochs": 3, "gate_epochs": 1, "batch": 64, "progress": False}


@pytest.fixture(scope="module")
def small():
    return make_routing_problem(n=900, d=16, models=3, seed=2)


@pytest.fixture(scope="module")
def found(small):
    return cr2fast.fit(small.table, small.costs, **TINY)


def others(table):
    """The same queries under names and embeddings that training has not seen."""
    ids = tuple(f"other-{i}" for i in range(len(table)))
    return replace(table, query_ids=ids, embeddings=table.embeddings + np.float32(1e-3))


def local_rate(router, table, lams):
    """Part of the queries whose full-information choice is local, counted, at each cost weight."""
    states = router.costs.sample_states(len(table), 11)
    costs = router.decision_costs(table, states, "predicted")
    return (_core.choice_margins(router.accuracies(table.embeddings), costs, lams) >= 0).mean(
        axis=1
    )


def test_the_range_is_where_choices_change(small, found):
    record = found.training["lam_range"]
    assert (record["source"], record["note"]) == ("auto", None)
    config = found.training["config"]
    assert (config["lam_low"], config["lam_high"]) == (record["low"], record["high"])
    assert 0.02 <= record["local_rate"][0] < 0.03
    assert 0.97 < record["local_rate"][1] <= 0.98
    # Under other link states, so not to the digit.
    low, high = local_rate(found, small.table, record["local"])
    assert low == pytest.approx(0.02, abs=0.015)
    assert high == pytest.approx(0.98, abs=0.015)


def test_the_default_grid_lies_there_and_can_be_typed(small, found):
    router = cr2fast.Router(found._core)
    lams = router.calibrate(others(small.table), alphas=(0.05,)).lams
    record = found.training["lam_range"]
    assert len(lams) == 32
    assert record["low"] <= lams[0] < lams[-1] <= record["high"]
    assert all(float(f"{lam:.3g}") == lam for lam in lams)
    assert 1.0 in lams
    rates = local_rate(found, small.table, lams)
    assert ((rates >= 0.02) & (rates <= 0.98)).sum() >= 28
    # No step takes many choices, and none takes most of the range.
    assert np.diff(rates).max() < 0.1
    assert np.diff(np.log(lams)).max() < np.log(lams[-1] / lams[0]) / 4


def test_a_range_that_is_given_is_taken_and_changes_no_bit(small, found):
    record = found.training["lam_range"]
    given = cr2fast.fit(small.table, small.costs, lam_range=(record["low"], record["high"]), **TINY)
    told = given.training["lam_range"]
    assert (told["source"], told["grid"], told["note"]) == ("given", [], None)
    assert told["local"] == [record["low"], record["high"]]
    x, lams = small.table.embeddings, [1.0, 2.0]
    assert given.margins(x, lams).tobytes() == found.margins(x, lams).tobytes()


def test_a_local_model_that_always_wins_has_the_papers_range_and_a_note(small):
    correct = np.zeros_like(small.table.correct)
    correct[:, 0] = True
    router = cr2fast.fit(
        replace(small.table, correct=correct), small.costs, **(TINY | {"teacher_epochs": 60})
    )
    record = router.training["lam_range"]
    assert (record["low"], record["high"]) == (0.1, 20.0)
    assert record["local_rate"] == [1.0, 1.0]
    assert "for 0 of 900 queries: the range is the paper's" in record["note"]


def test_a_rate_that_starts_high_is_said(small):
    # The local model is as good as any on half of the queries, at no price at all.
    rng = np.random.default_rng(0)
    x = small.table.embeddings
    easy = x[:, 0] > np.median(x[:, 0])
    correct = rng.random(small.table.correct.shape) < np.where(easy[:, None], [[0.9, 0.2, 0.2]], [[0.1, 0.8, 0.9]])  # fmt: skip
    router = cr2fast.fit(
        replace(small.table, correct=correct), small.costs, **(TINY | {"teacher_epochs": 20})
    )
    record = router.training["lam_range"]
    assert record["low"] < record["high"]
    assert record["local_rate"][0] > 0.3
    assert "up to 0.02: that end is where 0.02 of the choices that change" in record["note"]


@pytest.mark.parametrize("grid", ["wide", [1, "two"], [1.0, 1e9], {"a": 1}])
def test_a_forged_grid_is_refused(small, found, grid):
    record = found.training | {"lam_range": {"grid": grid}}
    forged = cr2fast.Router.from_bytes(
        rewritten(found.to_bytes(), put(training=json.dumps(record)))
    )
    with pytest.raises(cr2fast.Cr2Error, match="lam"):
        forged.calibrate(others(small.table), alphas=(0.05,))


def test_choices_that_change_together_are_one_point_of_the_grid():
    """As of a log whose prices make many queries' choices change at one cost weight."""
    from cr2fast.calibration import lam_grid

    record = {
        "config": {"lam_low": 0.5, "lam_high": 9.0},
        "lam_range": {"grid": [0.5, 1.0, 2.25, 2.25, 2.25, 4.0, 9.0]},
    }
    assert lam_grid(None, record).tolist() == [0.5, 1.0, 2.2, 4.0, 9.0]
