"""The statement, the grid's spelling, words for infinite thresholds."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from cr2fast.calibration import ascending, statement, threshold_words


def test_the_statement_names_reference_lengths_samples_and_infeasible_levels():
    text = statement(400, "outcomes", "known", [0.001, 0.05])
    for words in ("recorded answers", "known output lengths", "400", "(0.001,)"):
        assert words in text
    assert "full-information choice (predicted" in statement(400, "teacher", "predicted", [0.05])
    assert "Infeasible" not in statement(400, "teacher", "predicted", [0.05])


def test_infinite_thresholds_are_words():
    taus = np.array([[np.inf, -np.inf, 0.5]], np.float32)
    assert threshold_words(taus) == [["defer all", "accept all", 0.5]]


def test_ascending_sorts_and_keeps_decimal_meaning():
    assert ascending([3, 1, 2], "x").tolist() == [1, 2, 3]
    assert ascending(np.float32([0.1, 0.05]), "x").tolist() == [0.05, 0.1]
    for bad in ([], [1, 1], [np.inf], [[1.0]]):
        with pytest.raises(cr2fast.Cr2Error, match="x: expected"):
            ascending(bad, "x")
