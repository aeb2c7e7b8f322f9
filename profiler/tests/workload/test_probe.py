"""The requests before a run: what they forgive, and what they refuse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cr2fast_profiler.errors import RunError
from cr2fast_profiler.workload.grid import Grid
from cr2fast_profiler.workload.probe import TRIES, probe

GRID = Grid.cross((64, 128), (8, 48))


class Early:
    """A model that stops at once in its first long answers."""

    name = "early"

    def __init__(self, short: int) -> None:
        self.short, self.asked = short, 0

    def generate(self, prompt: str, max_tokens: int) -> Any:
        self.asked += max_tokens == 48
        stops = max_tokens == 48 and self.asked <= self.short
        return SimpleNamespace(
            n_input_tokens=len(prompt.split()),
            n_output_tokens=8 if stops else max_tokens,
            finish_reason="stop" if stops else "length",
        )


@pytest.mark.parametrize("short", [0, 1, TRIES - 1])
def test_a_model_that_stops_early_now_and_then_is_asked_again(short: int) -> None:
    model: Any = Early(short)
    probe(model, GRID, np.random.default_rng(0))
    assert model.asked == short + 1


def test_a_model_that_always_stops_early_is_refused() -> None:
    model: Any = Early(TRIES)
    with pytest.raises(RunError, match=r"early ends its answers after 8 tokens"):
        probe(model, GRID, np.random.default_rng(0))
    assert model.asked == TRIES
