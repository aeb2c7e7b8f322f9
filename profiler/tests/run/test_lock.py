"""A run's folder is locked, and what cannot be locked is not called another process's."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from cr2fast_profiler.errors import RunError
from cr2fast_profiler.store import RunStore


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOLCK, "cannot lock .*local disk"),
        (errno.ENOSYS, "cannot lock .*local disk"),
        (errno.EWOULDBLOCK, "another process is writing"),
    ],
)
def test_a_lock_that_fails_says_why(tmp_path, monkeypatch, number, words):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunError, match=words), RunStore(tmp_path / "run").open({}):
        pass
