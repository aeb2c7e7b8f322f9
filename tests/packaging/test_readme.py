"""The README's promises that a machine can keep."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks[0], "README.md", "exec"), {})
    out = capsys.readouterr().out
    for words in ("at most alpha", "Decision(local=", "Selection(model=", "'risk'"):
        assert words in out
    assert (tmp_path / "router.safetensors").stat().st_size < 4e6


def test_the_tree_names_what_is_there():
    tree = README.split("## The tree")[1].split("```")[1]
    folder = ROOT
    for line in tree.strip().splitlines():
        name = line.strip().split()[0]
        path = folder / name if line.startswith("  ") else ROOT / name
        assert path.exists(), name
        if not line.startswith("  "):
            folder = ROOT / name
    assert tree.count("\n") > 8


def test_every_make_target_it_names_exists():
    named = set(re.findall(r"make ([a-z]+)", README))
    helped = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"demo", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}\s", helped.stdout, re.MULTILINE), target


def test_no_section_stands_twice():
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    headings = re.findall(r"^#+ .*$", text, re.MULTILINE)
    assert len(headings) == len(set(headings)) > 8
