"""One version, wherever it is repeated; and what a report of a fault says."""

from __future__ import annotations

import re
from pathlib import Path

import cr2fast

ROOT = Path(__file__).parents[2]


def test_one_version():
    cargo = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    profiler = re.search(r'"(\d[^"]*)"', version_of_the_profiler())[1]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    assert cargo == cr2fast.__version__ == profiler == cited


def version_of_the_profiler() -> str:
    return re.search(
        r"^version = .+$", (ROOT / "profiler/pyproject.toml").read_text(), re.MULTILINE
    )[0]


def test_show_versions_says_what_matters_and_nothing_secret(capsys, monkeypatch):
    monkeypatch.setenv("CR2FAST_SIMD", "scalar")
    monkeypatch.setenv("HOME", "/home/somebody")
    cr2fast.show_versions()
    out = capsys.readouterr().out
    for word in ("cr2fast", cr2fast.__version__, "Python", "numpy", "scalar", "threads"):
        assert word in out
    assert str(Path.home()) not in out
