"""The teacher's accuracies against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from testing import oracle


def test_accuracies_equal_plain_numpy(fitted, artifact, problem):
    x = problem.table.embeddings[:300]
    p = fitted.accuracies(x)
    expected = oracle.teacher_accuracies(oracle.read_tensors(artifact.read_bytes()), x)
    assert p.dtype == np.float32
    assert np.ptp(expected) > 0.2
    np.testing.assert_allclose(p, expected, atol=2e-6)


def test_batch_equals_single_and_threads(fitted, problem):
    x = problem.table.embeddings[:200]
    p = fitted.accuracies(x, threads=1)
    np.testing.assert_array_equal(fitted.accuracies(x, threads=2), p)
    for i in range(0, 200, 23):
        np.testing.assert_array_equal(fitted.accuracies(x[i : i + 1]), p[i : i + 1])


def test_other_widths_are_refused(fitted):
    with pytest.raises(
        cr2fast.Cr2Error, match=r"embeddings: expected shape \(N, 40\), got \[2, 41\]"
    ):
        fitted.accuracies(np.zeros((2, 41), np.float32))
