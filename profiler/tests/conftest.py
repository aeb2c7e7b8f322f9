from __future__ import annotations

import os

import pytest
from hypothesis import settings
from synthetic import Truth

from cr2fast_profiler import files

# As in the tests of cr2fast: "ci" draws the same cases in every run, "chance" new ones.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("chance", deadline=None)
if (profile := os.environ.get("HYPOTHESIS_PROFILE")) in ("ci", "chance"):
    settings.load_profile(profile)


@pytest.fixture
def truth() -> Truth:
    return Truth()


@pytest.fixture(scope="session", autouse=True)
def no_sync():
    """Rows are written as ever, and not forced to the disk: its pace is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda fd: None)
        yield
