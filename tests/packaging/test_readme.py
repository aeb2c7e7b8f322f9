"""The README's promises that a machine can keep."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cr2fast

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_it_is_a_screen_or_two():
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize("name", cr2fast._MODULES)
def test_a_submodule_is_there_after_importing_the_package(name):
    """Issue 13, item 14: in a process that imported nothing else."""
    code = f"import cr2fast; assert cr2fast.{name}.__name__ == 'cr2fast.{name}'"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks[0], "README.md", "exec"), {})
    out = capsys.readouterr().out
    for words in ("at most alpha", "Choice(model=", "risk"):
        assert words in out
    assert (tmp_path / "router.safetensors").stat().st_size < 4e6


def test_every_make_target_it_names_exists():
    named = set(re.findall(r"make ([a-z]+)", README))
    helped = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"demo", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}\s", helped.stdout, re.MULTILINE), target


def test_no_section_stands_twice():
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    headings = re.findall(r"^#+ .*$", text, re.MULTILINE)
    assert len(headings) == len(set(headings)) >= 6
