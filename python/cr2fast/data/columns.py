"""Columns into arrays: token counts, answers and embeddings, of whatever type they came in.

In: polars columns of a table, and the ids by which errors name its rows. Out: arrays of the types
that :class:`cr2fast.RoutingTable` holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown, some
from cr2fast._util.optional import require

if TYPE_CHECKING:
    import polars as pl

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
# The networks square embeddings in float32; honest ones are far below this.
LARGEST = 1e15
_TRUE, _FALSE = ("true", "yes"), ("false", "no")
# Numbers of an embedding that is written as text.
_BETWEEN = re.compile(r"[\s,;]+")


def without_nan(column: pl.Series) -> pl.Series:
    """The column with NaN as null: what pandas has for a missing number."""
    return column.fill_nan(None) if column.dtype.is_float() else column


def tokens(column: pl.Series, what: str, ids: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Token counts (N,), of whole numbers of any type."""
    polars = require("polars", "lab")
    if column.dtype == polars.String:
        numbers = column.str.strip_chars().cast(polars.Float64, strict=False)
        _refuse((numbers.is_null() & column.is_not_null()).to_numpy(), column, what, ids)
        column = numbers
    if not (column.dtype.is_numeric() or column.dtype == polars.Null):
        raise Cr2Error(f"{what}: expected integers, got {column.dtype}")
    values = column.cast(polars.Float64).to_numpy()
    good = (values >= 0) & (values <= np.iinfo(np.uint32).max) & (values == np.floor(values))
    _refuse(~good, column, what, ids)
    return values.astype(np.uint32)


def _refuse(bad: Mask, column: pl.Series, what: str, ids: Sequence[str]) -> None:
    if bad.any():
        at = np.flatnonzero(bad).tolist()
        raise Cr2Error(
            f"{what}: expected token counts, got {shown(column[at[0]])} for "
            f"{some([ids[i] for i in at])}"
        )


def grades(column: pl.Series, what: str) -> pl.Series:
    """Answers as Float32 in [0, 1]: bool, 0 and 1, grades, or the words true and false."""
    polars = require("polars", "lab")
    if column.dtype == polars.String:
        words = column.str.strip_chars().str.to_lowercase()
        values = (
            polars.select(
                polars.when(words.is_in(_TRUE))
                .then(1.0)
                .when(words.is_in(_FALSE))
                .then(0.0)
                .otherwise(words.cast(polars.Float64, strict=False))
            )
            .to_series()
            .cast(polars.Float64)
        )
        odd = column.filter(values.is_null() & column.is_not_null())
        if len(odd):
            percent = str(odd[0]).strip().endswith("%")
            advice = "a grade of 50 % is 0.5" if percent else "write true or false for such words"
            raise Cr2Error(
                f"{what}: expected true or false, 0 or 1, or grades in [0, 1], got {shown(odd[0])} "
                f"({len(odd)} such values); {advice}"
            )
    elif column.dtype.is_numeric() or column.dtype in (polars.Boolean, polars.Null):
        values = column.cast(polars.Float64)
    else:
        raise Cr2Error(
            f"{what}: expected true or false, 0 or 1, or grades in [0, 1], got {column.dtype}"
        )
    values = without_nan(values)
    outside = values.filter((values < 0) | (values > 1))
    if len(outside):
        raise Cr2Error(
            f"{what}: expected true or false, 0 or 1, or grades in [0, 1], got {outside[0]:.15g} "
            f"({len(outside)} values outside); divide by the best possible grade first"
        )
    return values.cast(polars.Float32)


def answers(values: F32) -> npt.NDArray[np.bool_] | F32:
    """The grades as booleans, where all are 0 or 1."""
    right = values == 1
    return right if (right | (values == 0)).all() else values


def embeddings(column: pl.Series) -> tuple[F32, dict[str, Mask]]:
    """(N, d) float32, and what is wrong with which rows; a row that is null is not looked at.

    Lists or arrays of numbers of any type; as text, numbers between brackets or without, separated
    by commas, semicolons or white space.
    """
    polars = require("polars", "lab")
    what = "embedding"
    if column.dtype == polars.String:
        column = _of_text(column)
    elif isinstance(column.dtype, polars.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, polars.List) or not (
        column.dtype.inner.is_numeric() or column.dtype.inner == polars.Null
    ):
        raise Cr2Error(f"{what}: expected lists of numbers, got {column.dtype}")
    there = column.is_not_null().to_numpy()
    lengths = column.list.len().fill_null(0).cast(polars.Int64).to_numpy()
    usual = int(np.bincount(lengths[there]).argmax()) if there.any() else 0
    if not usual:
        raise Cr2Error(f"{what}: expected lists of numbers, got empty ones")
    odd = there & (lengths != usual)
    rows = np.flatnonzero(there & ~odd)
    flat = column.gather(rows).explode().cast(polars.Float64)
    holes = np.zeros(len(column), dtype=bool)
    holes[rows] = flat.is_null().to_numpy().reshape(-1, usual).any(axis=1)
    out = np.zeros((len(column), usual), dtype=np.float32)
    with np.errstate(over="ignore"):
        values = flat.fill_null(0.0).to_numpy().reshape(-1, usual)
        large = np.zeros(len(column), dtype=bool)
        large[rows] = (np.abs(values) > LARGEST).any(axis=1) & np.isfinite(values).all(axis=1)
        out[rows] = values
    infinite = ~np.isfinite(out).all(axis=1) & ~large
    out[odd | holes | infinite | large] = 0
    widths = some(sorted(set(lengths[there].tolist())))
    wrong = {
        f"one width, got {widths}; other than {usual}:": odd,
        "no nulls inside, got some for": holes,
        "finite numbers, got NaN or infinity for": infinite,
        f"values up to {LARGEST:g}, got larger ones for": large,
    }
    return out, {words: mask for words, mask in wrong.items() if mask.any()}


def _of_text(column: pl.Series) -> pl.Series:
    """Numbers that stand in text: ``[0.1, 0.2]``, ``0.1 0.2`` and the like."""
    polars = require("polars", "lab")
    lists: list[pl.Series | None] = []
    for i, text in enumerate(column.to_list()):
        if text is None or not text.strip():
            lists.append(None)
            continue
        parts = _BETWEEN.split(text.strip().strip("[]()").strip())
        try:
            numbers = np.array([p or "nan" for p in parts], dtype=np.float64)
        except ValueError:
            raise Cr2Error(
                f"embedding: expected lists of numbers, or text such as [0.1, 0.2], got "
                f"{shown(text)} in row {i}"
            ) from None
        lists.append(polars.Series(numbers))
    found: pl.Series = polars.Series(column.name, lists, dtype=polars.List(polars.Float64))
    return found


def joined(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns ``embedding_0`` to ``embedding_<d-1>`` as one, where there is no ``embedding``."""
    polars = require("polars", "lab")
    found = {int(m[1]): c for c in frame.columns if (m := re.fullmatch(r"embedding_(\d{1,5})", c))}
    if "embedding" in frame.columns or not found:
        return frame
    if sorted(found) != list(range(len(found))):
        raise Cr2Error(
            f"embedding: expected columns embedding_0 to embedding_{max(found)}, got "
            f"{len(found)} of them"
        )
    names = [found[k] for k in range(len(found))]
    if not all(frame[c].dtype.is_numeric() for c in names):
        raise Cr2Error("embedding: expected numbers in columns embedding_0 and so on, got others")
    return frame.with_columns(embedding=polars.concat_list(names)).drop(names)
