"""Numbers and tables as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def useful(x: float) -> str:
    """Three digits, without an exponent where the number is of everyday size."""
    if 1000 <= abs(x) < 1e9:
        return f"{x:,.0f}"
    return f"{x:.3g}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
