"""The synthetic problem has the truth it claims; folders are read strictly."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from cr2fast.datasets import load_folder, make_routing_problem, synthetic_costs


def test_answers_follow_the_stated_probabilities():
    problem = make_routing_problem(n=20_000, d=24, models=3, seed=7)
    p, y = problem.probabilities, problem.table.correct
    assert p.shape == y.shape == (20_000, 3)
    for low in np.arange(0, 1, 0.1):
        inside = (p >= low) & (p < low + 0.1)
        if inside.sum() > 300:
            slack = 5 * np.sqrt(0.25 / inside.sum())
            assert abs(y[inside].mean() - p[inside].mean()) < slack
    assert (np.diff(p.mean(0)) > 0).all(), "larger models are better"


def test_it_follows_the_seed_and_matches_its_cost_table():
    a, b = make_routing_problem(n=50, seed=1), make_routing_problem(n=50, seed=1)
    np.testing.assert_array_equal(a.table.embeddings, b.table.embeddings)
    assert (make_routing_problem(n=50, seed=2).table.embeddings != a.table.embeddings).any()
    assert a.costs.models == list(a.table.models)
    np.testing.assert_allclose(np.linalg.norm(a.table.embeddings, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("sizes", [{"n": 0}, {"d": 1}, {"models": 1}, {"topics": 0}])
def test_bad_sizes_are_named(sizes):
    with pytest.raises(cr2fast.Cr2Error, match="routing problem: expected"):
        make_routing_problem(**sizes)


def test_the_local_model_is_the_cheapest_synthetic_one():
    costs = synthetic_costs(6).with_normalizers(1.0, 100.0)
    c = costs.cost([100], [[100] * 6], costs.sample_states(1, 0))[0]
    assert (np.diff(c) > 0).all()


def test_folders_are_read_strictly(tmp_path):
    with pytest.raises(FileNotFoundError, match="data: expected a folder"):
        load_folder(tmp_path / "none")
    with pytest.raises(cr2fast.Cr2Error, match=r"expected one file cost_table\*.json .*got \[\]"):
        load_folder(tmp_path)
