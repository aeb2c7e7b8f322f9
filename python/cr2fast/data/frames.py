"""Two tidy tables into aligned arrays: what :meth:`RoutingTable.read` reads, with polars.

In: queries (``query_id``, ``n_input_tokens``, ``embedding``, optional ``category``) and outcomes
(``query_id``, ``model``, ``correct``, ``n_output_tokens``). Out: :class:`Aligned`, row by row, or
an error that names the queries at fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import explained, some
from cr2fast._util.forked import check_polars
from cr2fast._util.optional import require

if TYPE_CHECKING:
    import polars as pl

QUERY_COLUMNS = ("query_id", "n_input_tokens", "embedding")
OUTCOME_COLUMNS = ("query_id", "model", "correct", "n_output_tokens")
# Names that mean something of a query: an outcomes' column of such a name is another thing.
_OF_QUERIES = (*QUERY_COLUMNS, "category", "text")


class Aligned(NamedTuple):
    """Arrays of N queries and M models, as :class:`RoutingTable` holds them."""

    query_ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_]
    n_input_tokens: npt.NDArray[np.uint32]
    n_output_tokens: npt.NDArray[np.uint32]
    categories: tuple[str, ...] | None
    extra: dict[str, list[Any]]


def read(
    queries: str | Path | pl.DataFrame,
    outcomes: str | Path | pl.DataFrame,
    models: Sequence[str],
    incomplete: str,
) -> Aligned:
    """Read and align; `incomplete` is "raise" or "drop"."""
    check_polars("RoutingTable.read")
    drop = incomplete == "drop"
    q = _whole(_frame(queries, "queries", QUERY_COLUMNS), "queries", drop)
    twice = q.filter(q["query_id"].is_duplicated())["query_id"].unique(maintain_order=True)
    if len(twice):
        raise Cr2Error(
            f"queries: expected unique query_id, got duplicates: {some(twice.to_list())}"
        )
    o = _of_models(_frame(outcomes, "outcomes", OUTCOME_COLUMNS), models, drop)
    q, parts = _align(q, o, models, drop)
    extra = {c: q[c].to_list() for c in q.columns if c not in (*QUERY_COLUMNS, "category")}
    for c in o.columns:
        if c not in OUTCOME_COLUMNS:
            name = c
            while name in extra or name in _OF_QUERIES:
                name = f"outcomes.{name}"
            columns = [p[c].to_list() for p in parts]
            extra[name] = [list(row) for row in zip(*columns, strict=True)]
    counts = [
        _tokens(p["n_output_tokens"], f"outcomes.n_output_tokens of {m}", q)
        for m, p in zip(models, parts, strict=True)
    ]
    return Aligned(
        query_ids=tuple(q["query_id"].to_list()),
        embeddings=_embeddings(q),
        correct=np.stack([p["correct"].to_numpy() for p in parts], axis=1),
        n_input_tokens=_tokens(q["n_input_tokens"], "queries.n_input_tokens", q),
        n_output_tokens=np.stack(counts, axis=1),
        categories=tuple(q["category"].to_list()) if "category" in q else None,
        extra=extra,
    )


def _frame(source: str | Path | pl.DataFrame, what: str, columns: Sequence[str]) -> pl.DataFrame:
    """A table that has these columns, its names as text."""
    polars = require("polars", "lab")
    if isinstance(source, (str, Path)):
        if not Path(source).is_file():
            raise FileNotFoundError(f"{what}: expected a Parquet file, got no file at {source}")
        try:
            frame: pl.DataFrame = polars.read_parquet(source, glob=False)
        except (polars.exceptions.PolarsError, OSError) as error:
            raise Cr2Error(
                f"{what}: expected a Parquet file, got {source}: {explained(error)}"
            ) from error
    elif isinstance(source, polars.DataFrame):
        frame = source
    else:
        raise TypeError(f"{what}: expected a path or polars.DataFrame, got {type(source).__name__}")
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise Cr2Error(f"{what}: expected columns {list(columns)}, missing {missing}")
    if frame.is_empty():
        raise Cr2Error(f"{what}: expected at least one row, got none")
    names = [c for c in ("query_id", "model") if c in columns]
    text = [*names, *(["category"] if what == "queries" and "category" in frame else [])]
    try:
        return frame.with_columns(polars.col(text).cast(polars.String))
    except polars.exceptions.PolarsError as error:
        kinds = {c: str(frame[c].dtype) for c in text}
        raise Cr2Error(f"{what}: expected text in {text}, got {kinds}") from error


def _whole(frame: pl.DataFrame, what: str, drop: bool) -> pl.DataFrame:
    """Rows without a null in the columns that matter, or an error that names the others."""
    polars = require("polars", "lab")
    wanted = QUERY_COLUMNS if what == "queries" else ("query_id", "model")
    needed = [*wanted, *(["category"] if what == "queries" and "category" in frame else [])]
    good = frame.select(polars.all_horizontal(polars.col(needed).is_not_null())).to_series()
    if good.all():
        return frame
    if drop and good.any():
        return frame.filter(good)
    at = (~good).arg_true().to_list()
    ids = frame["query_id"].to_list()
    named = some([f"row {i}" if ids[i] is None else ids[i] for i in at])
    raise Cr2Error(
        f"{what}: expected no nulls, got some in {[c for c in needed if frame[c].null_count()]} of "
        f"{named}; pass incomplete='drop' to leave them out"
    )


def _of_models(o: pl.DataFrame, models: Sequence[str], drop: bool) -> pl.DataFrame:
    """Outcomes of the chosen models, one row per query and model."""
    polars = require("polars", "lab")
    o = _whole(o, "outcomes", drop)
    if o["correct"].dtype != polars.Boolean:
        raise Cr2Error(f"outcomes.correct: expected Boolean, got {o['correct'].dtype}")
    known = set(o["model"].to_list())
    absent = [m for m in models if m not in known]
    if absent:
        raise Cr2Error(
            f"outcomes: expected every model of {list(models)}, got none of {absent}; "
            f"the file has {sorted(known)}"
        )
    o = o.filter(polars.col("model").is_in(list(models)))
    again = o.filter(o.select("query_id", "model").is_duplicated())
    if len(again):
        pairs = again.select("query_id", "model").unique(maintain_order=True).rows()
        raise Cr2Error(
            f"outcomes: expected one row per query_id and model, got more: {some(pairs)}"
        )
    return o


def _align(
    q: pl.DataFrame, o: pl.DataFrame, models: Sequence[str], drop: bool
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Queries with all outcomes, and their outcomes model by model, row by row."""
    polars = require("polars", "lab")
    common = q["query_id"].is_in(o["query_id"].unique().to_list())
    if not common.any():
        raise Cr2Error(
            "queries and outcomes: expected query ids in common, got none; "
            f"queries have {some(q['query_id'].head(2).to_list())}, "
            f"outcomes have {some(o['query_id'].head(2).to_list())}"
        )
    # A call that failed left a null: an outcome that is not there.
    known = polars.all_horizontal(polars.col("correct", "n_output_tokens").is_not_null())
    got = o.filter(known).with_columns(polars.lit(True).alias("\0here"))
    parts = []
    for m in models:
        part = got.filter(polars.col("model") == m)
        parts.append(
            q.select("query_id").join(part, on="query_id", how="left", maintain_order="left")
        )
    here = np.stack([p["\0here"].fill_null(False).to_numpy() for p in parts], axis=1)
    whole = here.all(axis=1)
    if not whole.all():
        at = np.flatnonzero(~whole).tolist()
        ids = q["query_id"].to_list()
        lacking = [m for m, has in zip(models, here[at[0]].tolist(), strict=True) if not has]
        if not drop:
            raise Cr2Error(
                f"outcomes: expected an outcome of every model for every query, {len(at)} queries "
                f"lack some ({some([ids[i] for i in at])}); pass incomplete='drop' to leave them "
                f"out; {ids[at[0]]!r} lacks {some(lacking)}"
            )
        if not whole.any():
            raise Cr2Error(
                f"outcomes: expected queries with an outcome of every model of {list(models)}, got "
                f"none among {len(at)}; {ids[at[0]]!r} lacks {some(lacking)}"
            )
    keep = polars.Series(whole)
    return q.filter(keep), [p.filter(keep).drop("\0here") for p in parts]


def _tokens(column: pl.Series, what: str, q: pl.DataFrame) -> npt.NDArray[np.uint32]:
    if not column.dtype.is_integer():
        raise Cr2Error(f"{what}: expected integers, got {column.dtype}")
    values = column.to_numpy()
    bad = np.flatnonzero((values < 0) | (values > np.iinfo(np.uint32).max))
    if bad.size:
        ids = q["query_id"].to_list()
        raise Cr2Error(
            f"{what}: expected token counts, got {values[bad[0]]} for "
            f"{some([ids[i] for i in bad.tolist()])}"
        )
    return values.astype(np.uint32)


def _embeddings(q: pl.DataFrame) -> npt.NDArray[np.float32]:
    polars = require("polars", "lab")
    column = q["embedding"]
    ids = q["query_id"]
    if isinstance(column.dtype, polars.List):
        lengths = column.list.len()
        widths = lengths.unique().to_list()
        if len(widths) != 1 or not widths[0]:
            usual = lengths.mode().sort()[0]
            odd = ids.filter(lengths != usual).to_list() or ids.to_list()
            raise Cr2Error(
                f"queries.embedding: expected one width, got {some(sorted(widths))}; other than "
                f"{usual}: {some(odd)}"
            )
        inner = column.list.eval(polars.element().is_null().any()).list.first()
        column = column.list.to_array(widths[0])
    elif isinstance(column.dtype, polars.Array):
        inner = column.arr.to_list().list.eval(polars.element().is_null().any()).list.first()
    if not isinstance(column.dtype, polars.Array) or not column.dtype.inner.is_float():
        raise Cr2Error(f"queries.embedding: expected lists of float32, got {column.dtype}")
    if inner.any():
        raise Cr2Error(
            f"queries.embedding: expected no nulls inside, got some for "
            f"{some(ids.filter(inner).to_list())}"
        )
    return np.ascontiguousarray(column.to_numpy(), dtype=np.float32)
