"""Fixtures: one small fitted router for all, and where real data may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import cr2fast
from cr2fast.datasets import make_routing_problem

# A busy machine may be slow at any of it.
SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fast", max_examples=60, **SLOW)
# The same cases in every run, so that a change is judged by what it changes; "chance" draws new ones.
settings.register_profile("ci", max_examples=300, derandomize=True, **SLOW)
settings.register_profile("chance", max_examples=300, **SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# Most tests route at a cost weight of their own, which the range of the data need not hold.
QUICK = {
    "teacher_epochs": 5,
    "gate_epochs": 5,
    "batch": 64,
    "lr": 3e-3,
    "lam_range": (0.1, 20.0),
    "progress": False,
}


@pytest.fixture(scope="session")
def problem():
    return make_routing_problem(n=2500, d=40, models=4, seed=1)


@pytest.fixture(scope="session")
def splits(problem):
    return problem.table.split(seed=0)


@pytest.fixture(scope="session")
def fitted(problem, splits):
    """A router before calibration; do not calibrate it, take `router` or fit your own."""
    return cr2fast.fit(splits[0], problem.costs, hidden=32, **QUICK)


@pytest.fixture(scope="session")
def artifact(fitted, splits, tmp_path_factory):
    """Path of a calibrated artifact."""
    path = tmp_path_factory.mktemp("artifact") / "router.safetensors"
    router = cr2fast.Router(fitted._core)
    router.calibrate(splits[1], alphas=(0.01, 0.05, 0.1))
    router.save(path)
    return path


@pytest.fixture
def router(artifact):
    return cr2fast.Router.load(artifact)


@pytest.fixture(scope="session")
def data_dir():
    """The folder of real outcomes, when CR2FAST_DATA names it."""
    folder = os.environ.get("CR2FAST_DATA")
    if not folder:
        pytest.skip("CR2FAST_DATA is not set: no real outcomes here")
    assert Path(folder).is_dir(), f"CR2FAST_DATA={folder} is no folder"
    return Path(folder)


def pytest_configure(config):
    """Embeddings that tests make are kept where tests' things are, not in the user's cache."""
    where = config.cache.mkdir("cr2fast") if hasattr(config, "cache") else Path(".pytest_cache")
    os.environ.setdefault("CR2FAST_CACHE", str(where))


def pytest_collection_modifyitems(items):
    """What reads real data is slow, and so is the statistical folder."""
    for item in items:
        if "data_dir" in item.fixturenames or "statistical" in item.path.parts:
            item.add_marker("slow")
