"""Logs of calibrated routers: one whose test queries are last week's traffic, and one that is watched."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from cr2fast.datasets import make_routing_problem
from cr2fast.encoders.info import sha256_of
from testing import traffic
from tests.conftest import QUICK


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A router, more traffic like its calibration's, and traffic on which its promise fails."""
    problem = make_routing_problem(n=9000, d=24, models=3, seed=3)
    train, calibration, later = problem.table.split((0.2, 0.1, 0.7), seed=0)
    router = cr2fast.fit(train, problem.costs, hidden=16, **QUICK)
    router.calibrate(calibration, alphas=(0.05, 0.1), lams=[0.3, 1.0, 3.0])
    path = tmp_path_factory.mktemp("world") / "router.safetensors"
    router.save(path)
    # Other queries: those that the gate would keep and the teacher would not come four times.
    costs = router.costs.cost(
        later.n_input_tokens,
        router.predict_lengths(later.embeddings, later.n_input_tokens),
        router.costs.sample_states(len(later), 5),
    )
    p = router.accuracies(later.embeddings).astype(float)
    u = p - costs.astype(float)
    wrong = (u[:, 0] < u[:, 1:].max(axis=1)) & router.device(1.0, 0.05).route_batch(
        later.embeddings
    )
    rng = np.random.default_rng(0)
    weight = np.where(wrong, 4.0, 1.0)
    moved = rng.choice(len(later), size=3000, p=weight / weight.sum())
    return path, later, np.arange(3000), moved


@pytest.fixture(scope="session")
def sha256(artifact):
    return sha256_of(artifact)


@pytest.fixture
def records(router, splits, sha256):
    """500 requests at lam = 1, alpha = 0.05."""
    test = splits[2]
    return traffic.records(router, test.embeddings, test.n_input_tokens, 1.0, 0.05, sha256=sha256)


@pytest.fixture
def log(tmp_path, records):
    return traffic.write(tmp_path / "decisions.jsonl", records)
