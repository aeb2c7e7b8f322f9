"""What a forger or a slip puts in: named, at a bounded length, before anything is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cr2fast
from testing.artifacts import put, rewritten

GOLDEN = Path(__file__).parents[1] / "golden" / "router.safetensors"
LONG = 10**6


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{}",
        "[]",
        json.dumps({"config": {"lengths": "predicted"}}),
        json.dumps({"config": {"lengths": "guessed", "lam_low": 0.1, "lam_high": 20}}),
        json.dumps({"config": {"lengths": "known", "lam_low": "0.1", "lam_high": 20}}),
        json.dumps({"config": {"lengths": "known", "lam_low": 20, "lam_high": 0.1}}),
    ],
)
def test_a_training_record_that_no_fit_writes_is_refused_at_loading(record):
    forged = rewritten(GOLDEN.read_bytes(), put(training=record))
    with pytest.raises(cr2fast.ArtifactError, match="expected a training record with config"):
        cr2fast.Router.from_bytes(forged)


@pytest.mark.parametrize("value", [2**70, -1, 1.5, "256", True, float("nan")])
def test_a_hidden_width_that_is_none_is_named(problem, value):
    with pytest.raises(cr2fast.Cr2Error, match=r"^hidden: expected "):
        cr2fast.fit(problem.table, problem.costs, hidden=value, progress=False)


@pytest.mark.parametrize(
    "call",
    [
        lambda edge: cr2fast.CostTable.from_json(json.dumps({"schema": "x" * LONG})),
        lambda edge: cr2fast.Router.load(GOLDEN).costs.select(["x" * LONG]),
        lambda edge: cr2fast.EdgeSelector.load(GOLDEN, 1.0, rule="x" * LONG),
        lambda edge: cr2fast.EdgeSelector.load(GOLDEN, 1.0, rule="fallback", fallback="x" * LONG),
        lambda edge: edge.select(
            np.zeros(8, np.float32),
            1.0,
            cr2fast.LinkState(1e6, 1e6, 0.01),
            available=["x" * LONG],
        ),
        lambda edge: cr2fast.Router.from_bytes(
            rewritten(GOLDEN.read_bytes(), put(models=["x" * LONG]))
        ),
        lambda edge: cr2fast.Router.from_bytes(
            rewritten(GOLDEN.read_bytes(), put(format="x" * LONG))
        ),
        lambda edge: cr2fast.Router.load(GOLDEN, encoder=cr2fast.EncoderInfo("x" * LONG, "ab")),
        lambda edge: cr2fast.Router.load(GOLDEN)._core.rounded("x" * LONG),
        lambda edge: cr2fast.Router.load(GOLDEN).calibrate("x" * LONG),
    ],
)
def test_a_megabyte_of_input_is_not_echoed(call):
    edge = cr2fast.EdgeSelector.load(GOLDEN, 1.0)
    with pytest.raises((cr2fast.Cr2Error, TypeError)) as error:
        call(edge)
    assert len(str(error.value)) < 2000
