"""The documents' blocks run, their commands exist, and their links lead somewhere."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cr2fast
from cr2fast.datasets import make_routing_problem

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The page's blocks of a language; ``notest`` excepts those that need a network or a GPU."""
    found = BLOCK.findall(page.read_text())
    return [code for name, flags, code in found if name == language and "notest" not in flags]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT / "docs"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a page's blocks may use: a small fitted router, its splits, a static encoder, two files."""
    folder = tmp_path_factory.mktemp("docs")
    static = (ROOT / "tests/golden/static.safetensors").read_bytes()
    (folder / "static.safetensors").write_bytes(static)
    encoder = cr2fast.StaticEncoder.from_bytes(static)
    problem = make_routing_problem(n=900, d=encoder.dim, seed=0)
    table = replace(problem.table, encoder=encoder.info)
    train, calibration, test = table.split((0.5, 0.3, 0.2), seed=0)
    router = cr2fast.fit(
        train, problem.costs, hidden=8, teacher_epochs=1, gate_epochs=1, progress=False
    )
    router.calibrate(calibration, problem.costs, lams=[0.3, 1.0], alphas=[0.05])
    router.save(folder / "router.safetensors")
    made = {
        "router": router,
        "evaluation": cr2fast.evaluate(router, test, problem.costs),
        "encoder": encoder,
        "costs": problem.costs,
        "lam": 1.0,
    }
    return {"folder": folder, "cr2fast": cr2fast, "train": train, "test": test, **made}


def run(code: str, names: dict[str, Any], where: str) -> None:
    """Run a block as a notebook would, `await` and all."""
    compiled = compile(code, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    found = eval(compiled, names)
    if inspect.iscoroutine(found):
        asyncio.run(found)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_the_blocks_of_python_run(page, world, tmp_path, monkeypatch):
    for file in world["folder"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    names = {**world, "router": cr2fast.Router.load("router.safetensors")}
    for code in blocks(page, "python"):
        run(code, names, name(page))


def commands(page: Path) -> list[str]:
    """The page's command lines that begin with `cr2fast`, joined where a line goes on."""
    code = "".join(blocks(page, "sh")).replace("\\\n", " ")
    lines = [line for line in code.splitlines() if line.startswith("cr2fast ")]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda p: p.name)
def test_its_commands_are_ones_that_the_program_takes(page):
    from cr2fast.cli.parser import parser

    for line in commands(page):
        parser().parse_args(shlex.split(line)[1:])


def test_links_lead_somewhere():
    pages = [*PAGES, *ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md")]
    lost = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if not re.match(r"[a-z]+:|#", link) and not (page.parent / link.split("#")[0]).exists()
    ]
    assert lost == []


def test_every_page_is_reached_from_the_front():
    front = (ROOT / "README.md").read_text() + (ROOT / "docs/index.md").read_text()
    text = front + "".join(page.read_text() for page in PAGES) + (ROOT / "mkdocs.yml").read_text()
    assert [name(p) for p in PAGES if p.name != "index.md" and p.name not in text] == []
