"""A few requests before a run: whether answers measure, and whether the grid's lengths can be had.

In: a target and a grid. Out: :class:`Prompts`; or RunError, which names what the server cuts off
before a whole run is spent on it.
"""

from __future__ import annotations

import numpy as np

from cr2fast_profiler.errors import RunError
from cr2fast_profiler.workload.exchange import Exchange, Rejected, RejectedRequest, Target
from cr2fast_profiler.workload.grid import Grid
from cr2fast_profiler.workload.prompts import Prompts, words_prompt

WORDS = (8, 72)
FEW = 4
"""Tokens asked for where only the prompt's are of interest."""
TOO_FEW = (Rejected.EMPTY, Rejected.IGNORED_MAX_TOKENS)
"""What a server that thinks out of sight, or makes no answer so short, says to FEW."""
SHORT = 0.85
"""Of the tokens asked for, below which a length was not got."""
TRIES = 5
"""Answers looked at where they are short: a small model stops early by chance, a bound always."""
ALIKE = 1.1
"""Lengths within this factor are one and the same."""


def probe(target: Target, grid: Grid, rng: np.random.Generator) -> Prompts:
    """Two short requests, and one as long as the grid's longest, again where its answer is short.

    Parameters
    ----------
    target : Target
        To be profiled.
    grid : Grid
        Cells to come.
    rng : Generator
        Of the words.

    Raises
    ------
    RunError
        The answers are no measurements, a cell is too short, or the server cuts every length of
        the grid to the same one.
    """
    longest = max(o for _, o in grid.cells)
    counted = [_count(target, words_prompt(n, rng), longest) for n in WORDS]
    prompts = Prompts.from_probes(WORDS, (counted[0], counted[1]))
    for l_in, _ in grid.cells:
        prompts.make(l_in, rng)  # refuses a cell that is too short, before anything is written
    ins, outs = sorted({i for i, _ in grid.cells}), sorted({o for _, o in grid.cells})
    for _ in range(TRIES):
        got = _ask(target, prompts.make(ins[-1], rng), outs[-1])
        _refuse_cut_prompts(target, got.n_input_tokens, ins)
        if got.n_output_tokens >= SHORT * outs[-1] or got.n_output_tokens > ALIKE * outs[0]:
            return prompts
    raise RunError(
        f"{target.name} ends its answers after {got.n_output_tokens} tokens (finish_reason "
        f"{got.finish_reason!r:.40}), and the grid asks for {outs[0]} to {outs[-1]}: they would "
        "all be alike, and β_dec could not be told. Make it go on (where the server knows it, "
        "--extra '{\"ignore_eos\": true}'), raise its bound on answers, or ask for shorter ones "
        "(--grid)"
    )


def _refuse_cut_prompts(target: Target, got: int, ins: list[int]) -> None:
    if got >= SHORT * ins[-1] or got > ALIKE * ins[0]:
        return
    raise RunError(
        f"{target.name} counts {got} tokens of a prompt of {ins[-1]}, and the grid's shortest has "
        f"{ins[0]}: prompts are cut, so all would be alike, and β_pre could not be told. Raise the "
        "server's context length, or ask for shorter prompts (--grid)"
    )


def _count(target: Target, prompt: str, longest: int) -> int:
    """Tokens of a prompt: of a short answer, or else of one as long as the grid's longest."""
    try:
        return target.generate(prompt, FEW).n_input_tokens
    except RejectedRequest as refusal:
        if refusal.reason not in TOO_FEW:
            raise _no_measurement(target, refusal) from refusal
    return _ask(target, prompt, longest).n_input_tokens


def _ask(target: Target, prompt: str, max_tokens: int) -> Exchange:
    try:
        return target.generate(prompt, max_tokens)
    except RejectedRequest as refusal:
        raise _no_measurement(target, refusal) from refusal


def _no_measurement(target: Target, refusal: RejectedRequest) -> RunError:
    return RunError(f"{target.name}'s first answers are no measurements: {refusal}")
