"""A log of calls as answers of several models to the same queries.

In: a log (:mod:`cr2fast.data.calls`). Out: what :class:`cr2fast.RoutingTable` holds, with notes of
what was left out, how many, and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown, some
from cr2fast._util.optional import require
from cr2fast.data import calls, columns, frames, reading, statuses

if TYPE_CHECKING:
    import polars as pl


# What stands before the names of columns that are none of ours.
OTHER = "other."
# What is read of a call; another column of such a name (`correct` beside `score`) keeps the prefix.
_OWN = ("query_id", "model", "correct", "n_output_tokens", "usd", "seconds")


def read(
    log: Any,
    local: str,
    edge: Sequence[str] | None,
    names: Mapping[str, str] | None,
    maker: reading.Maker,
    incomplete: str,
) -> tuple[frames.Aligned, tuple[str, ...]]:
    """Read; the second of what is returned are the models, the local one first."""
    notes: list[str] = []
    frame = calls.read(log, names, ("model", "score", "text"), notes)
    models = (local, *(others(frame, local) if edge is None else edge))
    check_models(frame, models)
    good = _good(frame, models, notes)
    good = _counted(good, maker, notes)
    good = _joined(good, _ids(good, names, notes), notes)
    of_query = _of_query(good)
    q = _queries(good, models, of_query)
    drop = incomplete == "drop"
    own, more = reading.whole(q, "log", maker, drop)
    o = good.select(
        "query_id",
        "model",
        correct="score",
        n_output_tokens="completion_tokens",
        **{_named(c): c for c in good.columns if c.startswith(OTHER) and c not in of_query},
        usd="usd",
        seconds="seconds",
    )
    return frames.aligned(own, o, models, drop, maker, (*notes, *more)), models


def _named(column: str) -> str:
    """What a column that is none of ours is called in the table: its own name, where it is free."""
    name = column.removeprefix(OTHER)
    return column if name in _OWN or name.startswith(OTHER) else name


def others(frame: pl.DataFrame, local: str) -> list[str]:
    """The log's other models: the cheapest per call first; those without dollars by name."""
    polars = require("polars", "lab")
    means = (
        frame.filter(polars.col("model").is_not_null() & (polars.col("model") != local))
        .group_by("model")
        .agg(polars.col("usd").mean())
        .sort("usd", "model", nulls_last=True)
    )
    found: list[str] = means["model"].to_list()
    return found


def weakest(frame: pl.DataFrame) -> tuple[str, str]:
    """The model with the lowest mean score or, without scores, the cheapest; and why it is taken.

    Calls that failed do not count; of ties the cheaper one is taken.
    """
    polars = require("polars", "lab")
    good = frame.filter(~polars.col("failed") & polars.col("model").is_not_null())
    if good.is_empty():
        raise Cr2Error("log: expected calls that did not fail and name a model, got none")
    good = good.with_columns(score=columns.grades(good["score"], "log.score"))
    means = (
        good.group_by("model")
        .agg(polars.col("score").mean(), polars.col("usd").mean())
        .sort("score", "usd", "model", nulls_last=True)
    )
    if means["score"][0] is not None:
        return means["model"][0], "whose mean score is the lowest"
    if means["usd"][0] is not None:
        return means["model"][0], "whose calls cost the least"
    raise Cr2Error(
        f"local: expected the name of the device's model, one of "
        f"{shown(means['model'].to_list())}; the log has neither scores nor dollars to guess it by"
    )


def check_models(frame: pl.DataFrame, models: Sequence[str]) -> None:
    """Refuse models that the log does not have, and a log of one model."""
    known = sorted(set(frame["model"].drop_nulls().to_list()))
    if not all(isinstance(m, str) for m in models):
        raise TypeError("local, edge: expected a name and a list of names of models")
    if len(known) < 2:
        raise Cr2Error(
            f"log: expected calls of at least two models, the device's and an edge model's, got "
            f"only of {shown(known)}; add the other models' answers to the same prompts"
        )
    absent = [m for m in models if m not in known]
    if absent:
        raise Cr2Error(
            f"log: expected calls of {shown(list(models))}, got none of {shown(absent)}; it has "
            f"{shown(known)}"
        )
    if len(models) < 2 or len(set(models)) < len(models):
        raise Cr2Error(
            f"models: expected a local and at least one edge model, distinct, got {shown(models)}"
        )


def _left_out(notes: list[str], count: int, what: str) -> None:
    if count:
        notes.append(f"{count} {what} left out")


def _good(frame: pl.DataFrame, models: Sequence[str], notes: list[str]) -> pl.DataFrame:
    """Calls of these models that did not fail, with a prompt and a score."""
    polars = require("polars", "lab")
    kept = frame.filter(polars.col("model").is_in(list(models)))
    unnamed = frame["model"].null_count()
    _left_out(notes, len(frame) - len(kept) - unnamed, "calls of other models")
    _left_out(notes, unnamed, "calls that name no model")
    notes += statuses.left_out(int(kept["failed"].sum()), kept["odd"].to_list())
    graded = kept.with_columns(score=columns.grades(kept["score"], "log.score"))
    graded = graded.filter(~polars.col("failed"))
    for rule, what in (
        (polars.col("score").is_not_null(), "calls without a score"),
        (polars.col("text").is_not_null(), "calls without a prompt"),
    ):
        before, graded = graded, graded.filter(rule)
        said = before.filter(~rule)["unasked"].drop_nulls() if "prompt" in what else ()
        have = ", ".join(f"{n} have {kind}" for kind, n in Counter(said).most_common())
        _left_out(notes, len(before) - len(graded), what + (f" ({have})" if have else ""))
    if graded.is_empty():
        raise Cr2Error(
            f"log: expected calls with a prompt and a score that did not fail, got none among "
            f"{len(kept)}: {'; '.join(notes)}"
        )
    return graded


def _counted(good: pl.DataFrame, maker: reading.Maker, notes: list[str]) -> pl.DataFrame:
    """Calls with the tokens of their answers, counted where the log has the answer only."""
    polars = require("polars", "lab")
    tokens = columns.without_nan(good["completion_tokens"])
    blank = tokens.is_null() & good["answer"].is_not_null()
    if blank.any() and maker.encodes:
        texts = good["answer"].to_list()
        kept = tokens.to_list()
        counted = [
            float(maker.encoder.count_tokens(texts[i])) if now else kept[i]
            for i, now in enumerate(blank.to_list())
        ]
        tokens = polars.Series("completion_tokens", counted, dtype=polars.Float64)
        notes.append(f"answers of {int(blank.sum())} calls counted with the encoder's tokenizer")
    good = good.with_columns(completion_tokens=tokens)
    before, good = good, good.filter(tokens.is_not_null())
    if good.is_empty():
        raise Cr2Error(
            "log: expected completion_tokens, or answers to count, got neither in any call; pass "
            "columns={'completion_tokens': <its name>}"
        )
    _left_out(notes, len(before) - len(good), "calls without completion tokens")
    return good


def _ids(good: pl.DataFrame, names: Mapping[str, str] | None, notes: list[str]) -> pl.Series:
    """What tells queries apart: the log's ids, or the prompts where ids cannot be used."""
    polars = require("polars", "lab")
    ids = good["query_id"]
    if ids.null_count() == len(ids):
        notes.append("no column of ids: calls with the same prompt are one query")
        return good["text"]
    lacking = ids.null_count()
    if lacking:
        notes.append(f"{lacking} calls without an id: their prompts tell the query")
    pairs = good.select("query_id", "text").drop_nulls("query_id").unique()
    several = pairs.filter(pairs["query_id"].is_duplicated())
    # An id per call, or per conversation, tells no query; one that the caller named must.
    per_call = good["query_id"].drop_nulls().n_unique() == len(ids) - lacking
    if per_call and good["text"].n_unique() < len(good):
        why = "ids differ from call to call"
    elif len(several):
        why = "ids stand for several prompts"
        if names and "query_id" in names:
            raise Cr2Error(
                f"log: expected one prompt per {names['query_id']}, got several for "
                f"{some(several['query_id'].unique(maintain_order=True).to_list())}"
            )
    else:
        merged: pl.Series = polars.select(polars.coalesce(ids, good["text"])).to_series()
        return merged
    notes.append(f"{why}: calls with the same prompt are one query")
    return good["text"]


def _joined(good: pl.DataFrame, ids: pl.Series, notes: list[str]) -> pl.DataFrame:
    """One row per query and model: means over calls that were made again."""
    polars = require("polars", "lab")
    good = good.with_columns(query_id=ids)
    keys = ["query_id", "model"]
    repeated = len(good) - good.select(keys).n_unique()
    if not repeated:
        return good
    notes.append(f"{repeated} further calls of a model on the same query: means of their scores")
    means = ("score", "completion_tokens", "prompt_tokens", "usd", "seconds")
    rest = [c for c in good.columns if c not in (*keys, *means)]
    out = good.group_by(keys, maintain_order=True).agg(
        *(polars.col(c).mean() for c in means), *(polars.col(c).first() for c in rest)
    )
    return out.with_columns(polars.col("completion_tokens", "prompt_tokens").round())


def _of_query(good: pl.DataFrame) -> list[str]:
    """Other columns that say one thing of a query, whichever model was called: its app, say."""
    polars = require("polars", "lab")
    others = [c for c in good.columns if c.startswith(OTHER) and not good[c].dtype.is_nested()]
    if not others:
        return []
    kinds = good.group_by("query_id").agg(polars.col(others).drop_nulls().n_unique())
    names = [c.removeprefix(OTHER) for c in others]
    return [
        c
        for c, name in zip(others, names, strict=True)
        if name not in (*reading.COLUMNS, *_OWN) and kinds[c].max() == 1
    ]


def _queries(good: pl.DataFrame, models: Sequence[str], others: Sequence[str]) -> pl.DataFrame:
    """A row per query: prompt, category, embedding, and input tokens of the first that has some."""
    polars = require("polars", "lab")
    rank = {m: i for i, m in enumerate(models)}
    order = polars.col("model").replace_strict(rank, return_dtype=polars.Int64)
    ranked = good.with_columns(order.alias("\0rank"))
    first = [polars.col(c).drop_nulls().first() for c in ("category", "embedding")]
    q = ranked.group_by("query_id", maintain_order=True).agg(
        polars.col("text").first(),
        *first,
        *(polars.col(c).drop_nulls().first().alias(_named(c)) for c in others),
        polars.col("prompt_tokens").sort_by("\0rank").drop_nulls().first().alias("n_input_tokens"),
    )
    # What the log has nowhere is made.
    gone = [c for c in ("category", "embedding", "n_input_tokens") if q[c].null_count() == len(q)]
    return q.drop(gone)
