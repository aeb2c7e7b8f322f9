"""The crates' modules: data flows one way, and no file uses a file that uses it. Files are short."""

from __future__ import annotations

import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUST = ROOT / "rust"
FOLDERS = ("benches", "docs", "examples", "profiler", "python", "rust", "testing", "tests")
LONGEST = 400

# In the order in which data flows: a folder uses those before it.
STAGES = {
    "core": (
        "base", "simd", "ranks", "file", "encoder", "features", "pricing", "networks", "choice",
        "calibration", "router", "decide",
    ),
    "py": ("base", "encoder", "features", "pricing", "calibration", "choice", "router", "fit", "decide"),
}  # fmt: skip


def without_tests(text):
    return text.split("#[cfg(test)]\nmod tests")[0]


def uses(crate):
    """Each file of a crate, as a path of modules, with the files it uses."""
    src = RUST / crate / "src"
    files = {}
    for path in sorted(src.rglob("*.rs")):
        parts = path.relative_to(src).with_suffix("").parts
        files[parts[:-1] if parts[-1] == "mod" else parts] = path
    graph = {}
    for name, path in files.items():
        if name == ("lib",):
            continue
        found = set()
        for statement in re.findall(
            r"\bcrate::([^;(){}]*(?:\{[^;]*?\})?)", without_tests(path.read_text())
        ):
            head = re.split(r"[{<\s,)]", statement)[0]
            used = tuple(x for x in head.split("::") if x)
            while used and used not in files:
                used = used[:-1]
            # A part of a folder may use what the folder's own file declares, and so hold its fields.
            if used and used != name and used != name[:-1]:
                found.add(used)
        graph[name] = found
    return graph


@pytest.mark.parametrize("crate", sorted(p.parent.name for p in RUST.glob("*/src")))
def test_no_circle_between_files(crate):
    graph = uses(crate)
    assert sum(map(len, graph.values())) > 10, "uses are found at all"
    tuple(graphlib.TopologicalSorter(graph).static_order())  # a CycleError names the circle


@pytest.mark.parametrize("crate", STAGES)
def test_nothing_flows_back(crate):
    order = STAGES[crate]
    graph = uses(crate)
    assert {name[0] for name in graph} == set(order)
    back = [
        f"{'/'.join(name)} uses {'/'.join(used)}"
        for name, found in graph.items()
        for used in found
        if order.index(used[0]) > order.index(name[0])
    ]
    assert not back


def test_a_circle_would_be_seen():
    with pytest.raises(graphlib.CycleError):
        tuple(graphlib.TopologicalSorter({("a",): {("b",)}, ("b",): {("a",)}}).static_order())


def test_no_source_file_is_long():
    """A file that outgrows this is about two things: give each its own file."""
    paths = [p.relative_to(ROOT) for folder in FOLDERS for p in (ROOT / folder).rglob("*")]
    lines = {
        str(p): len((ROOT / p).read_text().splitlines())
        for p in paths
        if p.suffix in (".rs", ".py") and not {"target", "build", ".venv"} & set(p.parts)
    }
    assert len(lines) > 500, "sources are found at all"
    assert {name: n for name, n in lines.items() if n > LONGEST} == {}
