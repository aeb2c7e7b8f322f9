from __future__ import annotations

import itertools
import os
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from synthetic import Truth

from cr2fast_profiler import files, run

# As in the tests of cr2fast: a busy machine may be slow; "ci" draws the same cases in every run, and
# the others new ones.
SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, **SLOW)
settings.register_profile("chance", **SLOW)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE")
settings.load_profile("ci" if PROFILE == "ci" else "chance")


@pytest.fixture
def truth() -> Truth:
    return Truth()


@pytest.fixture(scope="session", autouse=True)
def no_sync():
    """Rows are written as ever, and not forced to the disk: its pace is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda fd: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def same_sessions():
    """Sessions draw prompts and gaps from 1, 2, 3 and so on, in place of new numbers at every run."""
    with pytest.MonkeyPatch.context() as patch:
        if PROFILE != "chance":
            numbers = itertools.count(1)
            drawn = SimpleNamespace(randbits=lambda bits: next(numbers))
            patch.setattr(run, "secrets", drawn)
        yield
