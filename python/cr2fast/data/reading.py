"""Queries out of a table: ids, embeddings, token counts, with an encoder for what is not there.

In: a table as :mod:`cr2fast.data.source` reads it, or a list of prompts. Out: :class:`Read`, the
fields of a :class:`cr2fast.QueryTable`, or an error that names the rows at fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error, texts_of
from cr2fast._util.checks import check_choice, shown, some
from cr2fast._util.optional import require
from cr2fast._util.progress import Shows, check_shows
from cr2fast.data import calls, chats, names, source
from cr2fast.data import columns as kinds
from cr2fast.data.belonging import check_texts
from cr2fast.data.embedding import Cache, embed
from cr2fast.encoders.info import EncoderInfo

if TYPE_CHECKING:
    import polars as pl

# What is read of a query; all other columns are kept as they are.
COLUMNS = ("query_id", "text", "category", "embedding", "n_input_tokens")


_ANEW = "pass embed=True to embed the texts anew, or encoder=EncoderInfo(...) to record a name only"


class Read(NamedTuple):
    """The fields of a query table."""

    query_ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    n_input_tokens: npt.NDArray[np.uint32]
    categories: tuple[str, ...] | None
    encoder: EncoderInfo
    extra: dict[str, list[Any]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Maker:
    """What makes the embeddings that a table lacks.

    Attributes
    ----------
    encoder : Encoder, StaticEncoder, EncoderInfo or None
        One that encodes, or only the name of the one that did.
    anew : bool
        Embed texts even where there are embeddings.
    cache : bool or path
        As of :func:`cr2fast.data.embedding.embed`.
    progress : bool or "lines"
    """

    encoder: Any = None
    anew: bool = False
    cache: Cache = True
    progress: Shows = True

    @property
    def info(self) -> EncoderInfo:
        """Name and fingerprint of the encoder."""
        if self.encoder is None:
            return EncoderInfo()
        named: EncoderInfo = (
            self.encoder if isinstance(self.encoder, EncoderInfo) else self.encoder.info
        )
        return named

    @property
    def encodes(self) -> bool:
        """Whether it can embed a text."""
        return self.encoder is not None and not isinstance(self.encoder, EncoderInfo)

    def check(self) -> None:
        """Refuse what is no encoder, and options that are none."""
        check_shows(self.progress)
        if not isinstance(self.cache, (bool, str, Path)):
            raise TypeError(f"cache: expected a bool or a path, got {type(self.cache).__name__}")
        if not isinstance(self.anew, bool):
            raise Cr2Error(f"embed: expected True or False, got {shown(self.anew)}")
        if self.encodes and not all(hasattr(self.encoder, n) for n in ("info", "encode")):
            raise TypeError(
                f"encoder: expected an EncoderInfo, an Encoder or a StaticEncoder, got "
                f"{type(self.encoder).__name__}"
            )
        if self.anew and not self.encodes:
            raise Cr2Error("embed: expected an encoder that embeds, got its name or none")


def queries(table: Any, maker: Maker, columns: Mapping[str, str], incomplete: str) -> Read:
    """Read; `incomplete` is "raise" or "drop"."""
    check_incomplete(incomplete)
    maker.check()
    if isinstance(table, (list, tuple)):
        table = _of_prompts(table)
    own = named(source.frame(table, "queries"), columns, "queries")
    own, notes = whole(own, "queries", maker, incomplete == "drop")
    own, more = _once(own)
    found = fields(own, maker, routed=True)
    return found._replace(notes=(*notes, *more))


def _once(own: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """One row per id, where rows of an id say the same: a log has a row per model."""
    if "query_id" not in own.columns or not own["query_id"].is_duplicated().any():
        return own, []
    said = ["query_id", "text" if "text" in own.columns else "embedding"]
    first = own.unique("query_id", keep="first", maintain_order=True)
    pairs = own.select(said).unique()
    if len(pairs) > len(first):
        twice = pairs.filter(pairs["query_id"].is_duplicated())["query_id"].unique().sort()
        raise Cr2Error(
            f"queries: expected unique query_id, got duplicates that say different things: "
            f"{some(twice.to_list())}; give each query an id of its own, or leave out that column"
        )
    return first, [f"{len(own) - len(first)} further rows of the same queries left out"]


def check_incomplete(incomplete: str) -> None:
    """Refuse another word than the two."""
    check_choice(incomplete, ("raise", "drop"), "incomplete")


def _of_prompts(prompts: Sequence[Any]) -> pl.DataFrame:
    if not prompts:
        raise Cr2Error("queries: expected at least one prompt, got none")
    texts, _ = texts_of(list(prompts))
    frame: pl.DataFrame = require("polars", "lab").DataFrame({"text": texts})
    return frame


def named(
    frame: pl.DataFrame, columns: Mapping[str, str], what: str, needed: Sequence[str] = ()
) -> pl.DataFrame:
    """The table with its query columns under our names, ids, categories and texts as text."""
    polars = require("polars", "lab")
    frame = kinds.joined(frame)
    wanted = (*COLUMNS, "messages")
    found = names.find(frame.columns, wanted, columns, what)
    if not {"text", "messages", "embedding"} & found.keys():
        frame = calls.flat(frame)
        found = names.find(frame.columns, wanted, columns, what)
    for ours in needed:
        if ours not in found:
            raise names.missing(ours, frame.columns, what)
    dialogues = found.pop("messages", None)
    said = found.get("text", dialogues)
    moved = {theirs: ours for ours, theirs in found.items() if theirs != ours}
    # A column of such a name that is not the one asked for keeps what it says under another.
    moved |= {c: f"other.{c}" for c in moved.values() if c in frame.columns and c not in moved}
    own = frame.rename(moved)
    # A column of this very name holds what is embedded; of requests it is the last user turn.
    if said is not None and (said != "text" or frame[said].dtype != polars.String):
        values, where = frame[said].to_list(), f"{what}.{said}"
        if frame[said].dtype == polars.String and "text" in found:
            read = chats.prompts(values, where)
        else:
            read = chats.texts(values, where, "text" not in found)
        found["text"] = said
        own = own.with_columns(text=polars.Series(read, dtype=polars.String))
    text = [c for c in ("query_id", "category", "text") if c in found]
    try:
        own = own.with_columns(polars.col(text).cast(polars.String))
    except polars.exceptions.PolarsError:
        got = {c: str(own[c].dtype) for c in text}
        raise Cr2Error(f"{what}: expected text in {text}, got {got}") from None
    if "n_input_tokens" in found:
        own = own.with_columns(kinds.without_nan(own["n_input_tokens"]))
    return own


def whole(own: pl.DataFrame, what: str, maker: Maker, drop: bool) -> tuple[pl.DataFrame, list[str]]:
    """Rows that have all that is read, and good embeddings; or an error that names the others."""
    for needed, kept in (("embedding", "prompts to embed"), ("n_input_tokens", "prompts to count")):
        if needed not in own.columns and ("text" not in own.columns or not maker.encodes):
            raise Cr2Error(
                f"{what}: expected a column for {needed}, tried {list(names.GUESSES[needed])}, or "
                f"{kept} (tried {list(names.GUESSES['text'])}) and an encoder; missing "
                f"{[c for c in ('n_input_tokens', 'embedding') if c not in own.columns]}; the "
                f"table has {some(own.columns)}"
                + ("" if maker.encodes else "; pass encoder=cr2fast.Encoder.load(...)")
            )
    embedded = "embedding" in own.columns and not maker.anew
    if not embedded and "text" not in own.columns:
        raise names.missing("text", own.columns, what)
    needed_here = [c for c in COLUMNS if c in own.columns and c not in ("text", "embedding")]
    needed_here.append("embedding" if embedded else "text")
    if embedded and "n_input_tokens" not in own.columns:
        needed_here.append("text")  # to be counted
    own, notes = without_nulls(own, needed_here, what, drop)
    if not embedded:
        return own, notes
    x, wrong = kinds.embeddings(own["embedding"])
    own = own.with_columns(embedding=require("polars", "lab").Series(x))
    if not wrong:
        return own, notes
    bad = np.any(list(wrong.values()), axis=0)
    if not drop or bad.all():
        words, mask = next(iter(wrong.items()))
        at = np.flatnonzero(mask).tolist()
        raise Cr2Error(
            f"{what}.embedding: expected {words} {some(_called(own, at))}"
            + ("; pass incomplete='drop' to leave such queries out" if not bad.all() else "")
        )
    notes.append(f"{int(bad.sum())} rows of {what} with damaged embeddings left out")
    return own.filter(require("polars", "lab").Series(~bad)), notes


def without_nulls(
    frame: pl.DataFrame, needed: Sequence[str], what: str, drop: bool
) -> tuple[pl.DataFrame, list[str]]:
    """Rows without a null in these columns, or an error that names the others."""
    polars = require("polars", "lab")
    good = frame.select(polars.all_horizontal(polars.col(needed).is_not_null())).to_series()
    if good.all():
        return frame, []
    at = (~good).arg_true().to_list()
    if drop and good.any():
        return frame.filter(good), [f"{len(at)} rows of {what} with nulls left out"]
    raise Cr2Error(
        f"{what}: expected no nulls, got some in {[c for c in needed if frame[c].null_count()]} of "
        f"{some(_called(frame, at))}; pass incomplete='drop' to leave them out"
    )


def _called(frame: pl.DataFrame, rows: Sequence[int]) -> list[str]:
    """What errors call these rows: their ids, where they have one."""
    ids = frame["query_id"].to_list() if "query_id" in frame.columns else [None] * len(frame)
    return [f"row {i}" if ids[i] is None else str(ids[i]) for i in rows]


def fields(own: pl.DataFrame, maker: Maker, routed: bool = False) -> Read:
    """The fields of rows that :func:`whole` has found whole.

    Where they may be rows of a decision log (`routed`), an embedding may have features behind it.
    """
    texts = own["text"].to_list() if "text" in own.columns else None
    if "embedding" in own.columns and not maker.anew:
        x = np.ascontiguousarray(own["embedding"].to_numpy(), dtype=np.float32)
        ids = _ids(own, texts, x)
        if texts is not None and maker.encodes:
            check_texts(texts, x, ids, maker.encoder, "encoder", _ANEW, routed)
    else:
        x = embed(maker.encoder, texts or [], cache=maker.cache, progress=maker.progress)
        ids = _ids(own, texts, x)
    if "n_input_tokens" in own.columns:
        counts = kinds.tokens(own["n_input_tokens"], "queries.n_input_tokens", ids)
    else:
        counts = np.array([maker.encoder.count_tokens(t) for t in texts or ()], dtype=np.uint32)
    extra = {c: own[c].to_list() for c in own.columns if c not in COLUMNS}
    if texts is not None:
        extra["text"] = texts
    return Read(
        query_ids=ids,
        embeddings=x,
        n_input_tokens=counts,
        categories=tuple(own["category"].to_list()) if "category" in own.columns else None,
        encoder=maker.info,
        extra=extra,
        notes=(),
    )


def _ids(own: pl.DataFrame, texts: list[str] | None, x: kinds.F32) -> tuple[str, ...]:
    """The ids of the column; without one, hashes of what queries say, repeats numbered."""
    if "query_id" in own.columns:
        return tuple(own["query_id"].to_list())
    seen: dict[str, int] = {}
    out = []
    for i, row in enumerate(x):
        text = texts[i] if texts is not None else None
        data = row.tobytes() if text is None else text.encode()
        name = f"said/{blake2b(data, digest_size=12).hexdigest()}"
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}/{seen[name]}")
    return tuple(out)
