"""Tables, plots and JSON of a report."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cr2fast
from cr2fast._util.jsontext import json_ready
from cr2fast.evaluation import report


@pytest.fixture(scope="module")
def evaluation(artifact, splits):
    return cr2fast.evaluate(cr2fast.Router.load(artifact), splits[2])


def test_the_table_shows_the_numbers(evaluation):
    text = report.table(evaluation, 0.05, rows=5)
    lines = text.splitlines()
    assert len(lines) == 6
    assert len({len(line) for line in lines}) == 1
    point = evaluation.at(0.1, 0.05)
    assert f"{point['accuracy']:.3f}" in lines[1]
    assert f"[{point['risk_low']:.4f}, {point['risk_high']:.4f}]" in lines[1]
    with pytest.raises(cr2fast.OperatingPointError, match="alpha=0.3"):
        report.table(evaluation, 0.3)


def test_compatibility_counts_cells(evaluation):
    line = report.compatibility(evaluation)
    for alpha, good in zip(evaluation.alphas, evaluation.compatible.sum(axis=0), strict=True):
        assert f"{alpha:g}: {good}/32" in line


def test_files_are_pictures_and_numbers(evaluation, tmp_path):
    files = report.write(
        tmp_path / "out", {"predicted lengths": evaluation}, {"note": float("nan")}
    )
    assert [f.name for f in files] == ["report.json", "pareto.png", "risk.png", "local_rate.png"]
    for picture in files[1:]:
        data = picture.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(data) > 10_000
    numbers = json.loads(files[0].read_text())
    assert numbers["note"] is None
    assert numbers["modes"]["predicted lengths"]["n"] == evaluation.n


def test_json_ready_says_null_for_what_json_cannot():
    value = {"a": np.float32(0.5), "b": [np.nan, np.inf], "c": np.arange(2), "d": (1, "x", None)}
    assert json_ready(value) == {"a": 0.5, "b": [None, None], "c": [0, 1], "d": [1, "x", None]}
