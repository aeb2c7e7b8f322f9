"""Logs of one calibrated router, whose test queries are last week's traffic."""

from __future__ import annotations

import pytest

from cr2fast.encoders.info import sha256_of
from testing import traffic


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
