"""benches/counts.py: what it reads of the harness, and when it fails."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benches/counts.py"


@pytest.fixture(scope="module")
def counts():
    spec = importlib.util.spec_from_file_location("counts", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def summary(name, values):
    return json.dumps(
        {
            "function_name": name,
            "id": "x",
            "profiles": [
                {"tool": "Callgrind", "data": {"total": {"metrics": {"Ir": {"values": values}}}}}
            ],
        }
    )


def test_it_reads_first_and_later_runs(counts):
    lines = ["noise\n", summary("a", {"new": 7}), summary("b", {"both": [5, 9]})]
    assert counts.measured(lines) == {"a/x": 7, "b/x": 5}


def test_three_percent_pass_and_more_fails(counts):
    assert counts.compare({"a": 10_000}, {"a": 10_300}) == []
    assert counts.compare({"a": 10_000}, {"a": 5_000}) == []
    (wrong,) = counts.compare({"a": 10_000}, {"a": 10_310})
    assert wrong.startswith("a: +3.1%")


def test_fifty_instructions_of_a_small_kernel_pass_and_more_fail(counts):
    assert counts.compare({"a": 300}, {"a": 350}) == []
    (wrong,) = counts.compare({"a": 300}, {"a": 351})
    assert wrong.startswith("a: +17.0%")


def test_other_benchmarks_fail(counts):
    wrong = counts.compare({"a": 1, "b": 1}, {"b": 1, "c": 1})
    assert wrong == ["a: committed but not run", "c: run but not committed"]


def test_the_committed_counts_are_of_the_benchmarks(counts):
    committed = json.loads(counts.COMMITTED.read_text())
    assert set(committed) == {"compiler", "instructions"}
    source = counts.COMMITTED.with_suffix(".rs").read_text()
    for name in committed["instructions"]:
        function, case = name.split("/")
        assert f"fn {function}(" in source
        assert f"#[bench::{case}(" in source
