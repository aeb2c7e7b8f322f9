from __future__ import annotations

import numpy as np
import pytest

from cr2fast_profiler.errors import RunError
from cr2fast_profiler.workload.grid import Grid
from cr2fast_profiler.workload.load import Load
from cr2fast_profiler.workload.prompts import INSTRUCTION, WORDS, Prompts, words_prompt


def test_a_round_holds_every_cell_once_between_two_references() -> None:
    grid = Grid.parse("32,128,512x16,64")
    items = grid.round(3, seed=1)
    assert [i.phase for i in items] == ["reference", *["grid"] * 6, "reference"]
    assert sorted((i.l_in, i.l_out) for i in items[1:-1]) == sorted(grid.cells)
    assert {(i.l_in, i.l_out) for i in (items[0], items[-1])} == {grid.reference} == {(128, 16)}
    assert [(i.round, i.position) for i in items] == [(3, p) for p in range(8)]


def test_the_order_is_random_and_only_seed_and_round_decide_it() -> None:
    grid = Grid.cross((32, 128, 512), (16, 64, 128))
    orders = [[(i.l_in, i.l_out) for i in grid.round(r, 0)] for r in range(6)]
    assert len({tuple(o) for o in orders}) == 6
    assert orders == [[(i.l_in, i.l_out) for i in grid.round(r, 0)] for r in range(6)]
    assert orders[0] != [(i.l_in, i.l_out) for i in grid.round(0, 1)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("32x16,64", "every cell has L_in = 32; add cells with another L_in, such as 64"),
        ("32,64x16", "every cell has L_out = 16"),
        ("32x16 64x32 128x64", "32x64 and 128x16 are missing"),
        ("32,64x1,16", "L_out at least 2"),
        ("0,64x16,32", "L_in must be at least 1"),
        ("", "grid: "),
        ("32-64", "expected L_in"),
        ("axb", "expected L_in"),
        ("32x16x4", "expected L_in"),
    ],
)
def test_a_singular_or_unreadable_grid_is_refused(text: str, words: str) -> None:
    with pytest.raises(RunError, match=words):
        Grid.parse(text)


def test_prompts_have_the_wanted_length_and_no_shared_head() -> None:
    prompts = Prompts.from_probes((8, 72), (30, 100))
    assert prompts.rate == pytest.approx(70 / 64)
    rng = np.random.default_rng(0)
    made = [prompts.make(300, rng) for _ in range(200)]
    words = [m.removesuffix(INSTRUCTION).split() for m in made]
    for w in words:
        assert abs(prompts.overhead + prompts.rate * len(w) - 300) <= prompts.rate / 2 + 1e-9
    assert len({tuple(w[:4]) for w in words}) == 200


def test_words_are_many_and_plain() -> None:
    assert len(WORDS) == len(set(WORDS)) >= 200
    assert all(w.isascii() and w.isalpha() and w.islower() for w in WORDS)
    assert words_prompt(3, np.random.default_rng(0)).endswith(INSTRUCTION)


def test_a_prompt_too_short_for_its_template_is_refused() -> None:
    prompts = Prompts.from_probes((8, 72), (50, 114))
    assert prompts.shortest == 45
    prompts.make(45, np.random.default_rng(0))
    with pytest.raises(RunError, match="shortest prompt has 45"):
        prompts.make(44, np.random.default_rng(0))


@pytest.mark.parametrize("tokens", [(30, 30), (30, 20), (30, 10_000)])
def test_token_counts_that_do_not_grow_with_words_are_refused(tokens) -> None:
    with pytest.raises(RunError, match=r"usage\.prompt_tokens"):
        Prompts.from_probes((8, 72), tokens)


@pytest.mark.parametrize(
    "text",
    [
        "poisson",
        "poisson:0",
        "poisson:nan",
        "concurrent:1.5",
        "x:1",
        "concurrent:65",
        "constant:inf",
        "constant:-1",
    ],
)
def test_a_load_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(RunError, match="load: "):
        Load.parse(text)


def test_arrivals() -> None:
    rng = np.random.default_rng(0)
    assert Load.parse("constant:4").arrivals_s(4, rng).tolist() == [0.25, 0.5, 0.75, 1.0]
    gaps = np.diff(Load.parse("poisson:5").arrivals_s(4000, rng))
    assert gaps.mean() == pytest.approx(0.2, rel=0.06)
    assert gaps.std() == pytest.approx(0.2, rel=0.08)
    assert not Load.parse("concurrent:3").arrivals_s(5, rng).any()
