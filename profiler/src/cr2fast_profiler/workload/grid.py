"""The grid of (L_in, L_out) and the order in which its cells are asked.

In: cells and a seed. Out: for each round its items, in a random order that only the seed and the
round's number decide, between two requests of the reference cell. A random order turns thermal
drift into noise (along an ascending grid it tilts β_pre); the reference cells show the drift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cr2fast_profiler.errors import RunError

Cell = tuple[int, int]
MOST_TOKENS = 1_000_000


@dataclass(frozen=True)
class Item:
    """One request of a plan.

    Attributes
    ----------
    round, position : int
        Where it stands; together its key.
    phase : str
        "grid" or "reference".
    l_in, l_out : int
        The cell, tokens.
    asked : (int, int)
        Tokens to ask for: up to an eighth fewer than the cell's, drawn anew. Else a server that
        writes at a beat of its own would round every answer of a cell alike.
    """

    round: int
    position: int
    phase: str
    l_in: int
    l_out: int
    asked: Cell


@dataclass(frozen=True)
class Grid:
    """Cells to measure.

    Attributes
    ----------
    cells : tuple of (L_in, L_out)
        Distinct, in tokens.
    """

    cells: tuple[Cell, ...]

    @classmethod
    def cross(cls, l_in: tuple[int, ...], l_out: tuple[int, ...]) -> Grid:
        """Every pair."""
        return cls(tuple((i, o) for i in sorted(set(l_in)) for o in sorted(set(l_out)))).checked()

    @classmethod
    def parse(cls, text: str) -> Grid:
        """From ``"32,128x16,64"`` (a cross) or ``"32x16 128x64 ..."`` (cells)."""
        try:
            parts = [
                tuple(tuple(int(n) for n in side.split(",")) for side in part.split("x"))
                for part in text.split()
            ]
            pairs = [(i, o) for i, o in parts]
        except ValueError:
            raise RunError(
                f"grid: expected L_in,...xL_out,... such as 32,128,512x16,64 got {text!r}"
            ) from None
        cells = {(i, o) for ins, outs in pairs for i in ins for o in outs}
        return cls(tuple(sorted(cells))).checked()

    def checked(self) -> Grid:
        """Refuse a grid that cannot tell tau0, β_pre and β_dec apart, naming the missing cells."""
        for l_in, l_out in self.cells:
            if not (1 <= l_in <= MOST_TOKENS and 2 <= l_out <= MOST_TOKENS):
                raise RunError(
                    f"grid: cell {l_in}x{l_out}: L_in must be at least 1 and L_out at least 2, "
                    f"since the first token belongs to the prefill, and both at most {MOST_TOKENS}"
                )
        ins, outs = sorted({i for i, _ in self.cells}), sorted({o for _, o in self.cells})
        if len(ins) < 2 or len(outs) < 2:
            which, have = ("L_in", ins) if len(ins) < 2 else ("L_out", outs)
            if not have:
                raise RunError("grid: no cells; give some such as 32,128,512x16,64")
            raise RunError(
                f"grid: singular: every cell has {which} = {have[0]}; add cells with another "
                f"{which}, such as {2 * have[0]}"
            )
        design = np.array([[1, i, o] for i, o in self.cells], float)
        if np.linalg.matrix_rank(design) < 3:
            missing = [c for c in ((ins[0], outs[-1]), (ins[-1], outs[0])) if c not in self.cells]
            named = " and ".join(f"{i}x{o}" for i, o in missing)
            raise RunError(
                "grid: singular: L_in and L_out rise together, so prefill and decode cannot be "
                f"told apart; the cells {named} are missing"
            )
        for at, (l_in, l_out) in enumerate(self.cells):
            if np.linalg.matrix_rank(np.delete(design, at, axis=0)) < 3:
                raise RunError(
                    f"grid: without the cell {l_in}x{l_out} the rest determine nothing, so the fit "
                    "cannot be checked by leaving cells out; add a cell"
                )
        return self

    @property
    def reference(self) -> Cell:
        """The cell that brackets each round: the middle of both axes."""
        ins, outs = sorted({i for i, _ in self.cells}), sorted({o for _, o in self.cells})
        return ins[(len(ins) - 1) // 2], outs[(len(outs) - 1) // 2]

    def round(self, number: int, seed: int) -> list[Item]:
        """Items of round `number`."""
        rng = np.random.default_rng([seed, number])
        order = rng.permutation(len(self.cells))
        cells = [self.reference, *(self.cells[i] for i in order), self.reference]
        last = len(cells) - 1
        return [
            Item(
                number,
                at,
                "reference" if at in (0, last) else "grid",
                l_in,
                l_out,
                (
                    l_in - int(rng.integers(0, l_in // 8 + 1)),
                    l_out - int(rng.integers(0, l_out // 8 + 1)),
                ),
            )
            for at, (l_in, l_out) in enumerate(cells)
        ]
