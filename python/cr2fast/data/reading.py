"""Queries out of a table: ids, embeddings, token counts, with an encoder for what is not there.

In: what :mod:`cr2fast.data.source` reads, or a list of prompts. Out: :class:`Read`, the fields of a
:class:`cr2fast.QueryTable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown, some
from cr2fast._util.optional import require
from cr2fast.data import columns as kinds
from cr2fast.data import names, source
from cr2fast.encoders.info import EncoderInfo

if TYPE_CHECKING:
    import polars as pl

_WANTED = ("query_id", "text", "category", "embedding", "n_input_tokens")


class Read(NamedTuple):
    """The fields of a query table."""

    query_ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    n_input_tokens: npt.NDArray[np.uint32]
    categories: tuple[str, ...] | None
    encoder: EncoderInfo
    extra: dict[str, list[Any]]
    notes: tuple[str, ...]


def queries(table: Any, encoder: Any, columns: Mapping[str, str], incomplete: str) -> Read:
    """Read; `incomplete` is "raise" or "drop"."""
    check_incomplete(incomplete)
    if isinstance(table, (list, tuple)):
        table = _of_prompts(table)
    frame = kinds.joined(source.frame(table, "queries"))
    found = names.find(frame.columns, _WANTED, columns, "table")
    own = frame.rename({theirs: ours for ours, theirs in found.items() if theirs != ours})
    maker: Any = None if isinstance(encoder, EncoderInfo) else encoder
    info = encoder if isinstance(encoder, EncoderInfo) else getattr(encoder, "info", EncoderInfo())
    for needed, kept in (("embedding", "prompts to embed"), ("n_input_tokens", "prompts to count")):
        if needed not in found and (maker is None or "text" not in found):
            raise Cr2Error(
                f"queries: expected a column for {needed}, tried "
                f"{list(names.GUESSES[needed])}, or {kept} (tried {list(names.GUESSES['text'])}) "
                f"and an encoder; the table has {shown(frame.columns)}"
                + ("" if maker is not None else "; pass encoder=cr2fast.Encoder.load(...)")
            )
    own, notes = _whole(own, found, incomplete)
    texts = own["text"].cast(require("polars", "lab").String).to_list() if "text" in found else None
    if "embedding" in found:
        x, own, texts, notes = _given(own, texts, notes, incomplete)
    else:
        x = maker.encode(texts, 0)
    ids = _ids(own, texts, x)
    if "n_input_tokens" in found:
        counts = kinds.tokens(own["n_input_tokens"], "queries.n_input_tokens", ids)
    else:
        counts = np.array([maker.count_tokens(t) for t in texts or ()], dtype=np.uint32)
    extra = {c: own[c].to_list() for c in own.columns if c not in _WANTED}
    if texts is not None:
        extra["text"] = texts
    return Read(
        query_ids=ids,
        embeddings=x,
        n_input_tokens=counts,
        categories=tuple(own["category"].to_list()) if "category" in found else None,
        encoder=info,
        extra=extra,
        notes=tuple(notes),
    )


def check_incomplete(incomplete: str) -> None:
    """Refuse another word than the two."""
    if incomplete not in ("raise", "drop"):
        raise Cr2Error(f"incomplete: expected 'raise' or 'drop', got {shown(incomplete)}")


def _of_prompts(prompts: Sequence[Any]) -> pl.DataFrame:
    from cr2fast._core import texts_of

    if not prompts:
        raise Cr2Error("queries: expected at least one prompt, got none")
    texts, _ = texts_of(list(prompts))
    frame: pl.DataFrame = require("polars", "lab").DataFrame({"text": texts})
    return frame


def _whole(
    own: pl.DataFrame, found: Mapping[str, str], incomplete: str
) -> tuple[pl.DataFrame, list[str]]:
    """Rows without a null in the columns that are read."""
    polars = require("polars", "lab")
    text = [c for c in ("query_id", "category", "text") if c in found]
    try:
        own = own.with_columns(polars.col(text).cast(polars.String))
    except polars.exceptions.PolarsError:
        got = {c: str(own[c].dtype) for c in text}
        raise Cr2Error(f"queries: expected text in {text}, got {got}") from None
    if "n_input_tokens" in found:
        own = own.with_columns(kinds.without_nan(own["n_input_tokens"]))
    # A row with an embedding can do without its text.
    needed = [c for c in found if c != "text" or "embedding" not in found]
    good = own.select(polars.all_horizontal(polars.col(needed).is_not_null())).to_series()
    if good.all():
        return own, []
    lost = int((~good).sum())
    if incomplete == "drop" and good.any():
        return own.filter(good), [f"{lost} rows with nulls left out"]
    at = (~good).arg_true().to_list()
    raise Cr2Error(
        f"queries: expected no nulls, got some in {[c for c in needed if own[c].null_count()]} of "
        f"{some([f'row {i}' for i in at])}; pass incomplete='drop' to leave them out"
    )


def _given(
    own: pl.DataFrame, texts: list[str] | None, notes: list[str], incomplete: str
) -> tuple[kinds.F32, pl.DataFrame, list[str] | None, list[str]]:
    """The embeddings of the column, and the rows that have one."""
    x, wrong = kinds.embeddings(own["embedding"])
    if not wrong:
        return x, own, texts, notes
    bad = np.any(list(wrong.values()), axis=0)
    if incomplete == "raise" or bad.all():
        words, mask = next(iter(wrong.items()))
        rows = [f"row {i}" for i in np.flatnonzero(mask).tolist()]
        raise Cr2Error(
            f"queries.embedding: expected {words} for {some(rows)}; pass incomplete='drop' to "
            f"leave such rows out"
        )
    notes = [*notes, f"{int(bad.sum())} rows with damaged embeddings left out"]
    kept = np.flatnonzero(~bad)
    return x[kept], own[kept], texts and [texts[i] for i in kept.tolist()], notes


def _ids(own: pl.DataFrame, texts: list[str] | None, x: kinds.F32) -> tuple[str, ...]:
    """The ids of the column; without one, hashes of what queries say, repeats numbered."""
    if "query_id" in own.columns:
        ids = own["query_id"].to_list()
        if len(set(ids)) < len(ids):
            twice = own.filter(own["query_id"].is_duplicated())["query_id"].unique()
            raise Cr2Error(
                f"queries: expected unique query_id, got duplicates: {some(twice.to_list())}"
            )
        return tuple(ids)
    seen: dict[str, int] = {}
    out = []
    for i, row in enumerate(x):
        text = texts[i] if texts is not None else None
        data = row.tobytes() if text is None else text.encode()
        name = f"said/{blake2b(data, digest_size=12).hexdigest()}"
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}/{seen[name]}")
    return tuple(out)
