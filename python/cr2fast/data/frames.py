"""Tidy tables into aligned arrays: what :meth:`RoutingTable.read` reads, with polars.

In: queries (``query_id``, ``n_input_tokens``, ``embedding``, optional ``category``) and outcomes
(``query_id``, ``model``, ``correct``, ``n_output_tokens``), or one table that has both, a row per
query and model. Out: :class:`Aligned`, row by row, or an error that names the queries at fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown, some
from cr2fast._util.optional import require
from cr2fast.data import columns, reading, source
from cr2fast.encoders.info import EncoderInfo

if TYPE_CHECKING:
    import polars as pl

OUTCOME_COLUMNS = ("query_id", "model", "correct", "n_output_tokens")
# Names that mean something of a query: an outcomes' column of such a name is another thing.
_OF_QUERIES = reading.COLUMNS


class Aligned(NamedTuple):
    """Arrays of N queries and M models, as :class:`RoutingTable` holds them."""

    query_ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_] | npt.NDArray[np.float32]
    n_input_tokens: npt.NDArray[np.uint32]
    n_output_tokens: npt.NDArray[np.uint32]
    categories: tuple[str, ...] | None
    encoder: EncoderInfo
    extra: dict[str, list[Any]]
    notes: tuple[str, ...]


def read(
    queries: Any, outcomes: Any, models: Sequence[str], incomplete: str, maker: reading.Maker
) -> Aligned:
    """Read and align; `incomplete` is "raise" or "drop"; without outcomes, one table is both."""
    drop = incomplete == "drop"
    if outcomes is None:
        q, o = _apart(source.frame(queries, "table"))
    else:
        q, o = source.frame(queries, "queries"), source.frame(outcomes, "outcomes")
    own = reading.named(q, {}, "queries", needed=("query_id",))
    o, notes = _of_models(_outcomes(o), models, drop)
    own, more = reading.whole(own, "queries", maker, drop)
    twice = own.filter(own["query_id"].is_duplicated())["query_id"].unique(maintain_order=True)
    if len(twice):
        raise Cr2Error(
            f"queries: expected unique query_id, got duplicates: {some(twice.to_list())}"
        )
    return aligned(own, o, models, drop, maker, (*more, *notes))


def aligned(
    own: pl.DataFrame,
    o: pl.DataFrame,
    models: Sequence[str],
    drop: bool,
    maker: reading.Maker,
    notes: Sequence[str],
) -> Aligned:
    """The fields of whole queries with their outcomes; those that lack one left out or named."""
    own, parts, lacking = _align(own, o, models, drop)
    found = reading.fields(own, maker)
    extra = dict(found.extra)
    for c in o.columns:
        if c not in OUTCOME_COLUMNS:
            name = c
            while name in extra or name in _OF_QUERIES:
                name = f"outcomes.{name}"
            values = [p[c].to_list() for p in parts]
            extra[name] = [list(row) for row in zip(*values, strict=True)]
    counts = [
        columns.tokens(p["n_output_tokens"], f"outcomes.n_output_tokens of {m}", found.query_ids)
        for m, p in zip(models, parts, strict=True)
    ]
    grades = np.stack([p["correct"].to_numpy() for p in parts], axis=1)
    return Aligned(
        query_ids=found.query_ids,
        embeddings=found.embeddings,
        correct=columns.answers(grades),
        n_input_tokens=found.n_input_tokens,
        n_output_tokens=np.stack(counts, axis=1),
        categories=found.categories,
        encoder=found.encoder,
        extra=extra,
        notes=(*notes, *lacking),
    )


def _apart(table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One table of a row per query and model, as queries and outcomes."""
    polars = require("polars", "lab")
    _check_columns(table, "table", OUTCOME_COLUMNS)
    named = reading.named(table, {}, "table", needed=("query_id",))
    of_query = [c for c in named.columns if c in _OF_QUERIES]
    q = named.select(of_query).unique(maintain_order=True)
    twice = q.filter(q["query_id"].is_duplicated() & q["query_id"].is_not_null())
    if len(twice):
        name = twice["query_id"][0]
        here = q.filter(polars.col("query_id") == name)
        differ = [c for c in of_query if here[c].n_unique() > 1]
        raise Cr2Error(
            f"table: expected one {' and '.join(differ)} per query_id, got "
            f"{twice['query_id'].n_unique()} queries with several: {some([name])}"
        )
    outcomes = named.select("query_id", *(c for c in named.columns if c not in of_query))
    return q, outcomes


def _check_columns(frame: pl.DataFrame, what: str, needed: Sequence[str]) -> None:
    missing = [c for c in needed if c not in frame.columns]
    if missing:
        raise Cr2Error(
            f"{what}: expected columns {list(needed)}, missing {missing}; it has "
            f"{some(frame.columns)}"
        )


def _outcomes(frame: pl.DataFrame) -> pl.DataFrame:
    """Outcomes with names as text, grades as numbers, and NaN as null."""
    polars = require("polars", "lab")
    _check_columns(frame, "outcomes", OUTCOME_COLUMNS)
    text = ["query_id", "model"]
    try:
        frame = frame.with_columns(polars.col(text).cast(polars.String))
    except polars.exceptions.PolarsError as error:
        kinds = {c: str(frame[c].dtype) for c in text}
        raise Cr2Error(f"outcomes: expected text in {text}, got {kinds}") from error
    return frame.with_columns(
        columns.grades(frame["correct"], "outcomes.correct").alias("correct"),
        columns.without_nan(frame["n_output_tokens"]),
    )


def _of_models(
    o: pl.DataFrame, models: Sequence[str], drop: bool
) -> tuple[pl.DataFrame, list[str]]:
    """Outcomes of the chosen models, one row per query and model."""
    polars = require("polars", "lab")
    o, notes = reading.without_nulls(o, ["query_id", "model"], "outcomes", drop)
    known = set(o["model"].to_list())
    absent = [m for m in models if m not in known]
    if absent:
        raise Cr2Error(
            f"outcomes: expected every model of {list(models)}, got none of {absent}; "
            f"the file has {shown(sorted(known))}"
        )
    o = o.filter(polars.col("model").is_in(list(models)))
    again = o.filter(o.select("query_id", "model").is_duplicated())
    if len(again):
        pairs = again.select("query_id", "model").unique(maintain_order=True).rows()
        raise Cr2Error(
            f"outcomes: expected one row per query_id and model, got more: {some(pairs)}"
        )
    return o, notes


def _align(
    q: pl.DataFrame, o: pl.DataFrame, models: Sequence[str], drop: bool
) -> tuple[pl.DataFrame, list[pl.DataFrame], list[str]]:
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
    notes = []
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
                f"none among {len(at)}; {ids[at[0]]!r} lacks {some(lacking)}; leave out models "
                f"that answered other queries (edge=)"
            )
        notes.append(f"{len(at)} queries left out that lack the outcome of some model")
    keep = polars.Series(whole)
    return q.filter(keep), [p.filter(keep).drop("\0here") for p in parts], notes
