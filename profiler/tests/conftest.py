from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from synthetic import Truth

from cr2fast_profiler import files

# As in the tests of cr2fast: a busy machine may be slow; "ci" draws the same cases in every run, and
# the others new ones.
SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, **SLOW)
settings.register_profile("chance", **SLOW)
settings.load_profile("ci" if os.environ.get("HYPOTHESIS_PROFILE") == "ci" else "chance")


@pytest.fixture
def truth() -> Truth:
    return Truth()


@pytest.fixture(scope="session", autouse=True)
def no_sync():
    """Rows are written as ever, and not forced to the disk: its pace is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda fd: None)
        yield
