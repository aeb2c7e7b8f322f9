from __future__ import annotations

import pytest
from synthetic import Truth

from cr2fast_profiler import files


@pytest.fixture
def truth() -> Truth:
    return Truth()


@pytest.fixture(scope="session", autouse=True)
def no_sync():
    """Rows are written as ever, and not forced to the disk: its pace is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda fd: None)
        yield
