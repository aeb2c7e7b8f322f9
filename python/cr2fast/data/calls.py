"""A log of calls, one row per call, under our names: what tables of answers and of costs read.

In: a log of any kind that :mod:`cr2fast.data.source` reads, whose columns may be called what the
usual tools call them (:mod:`cr2fast.data.names`). Out: a polars frame with the columns of
:data:`COLUMNS`, null where the log has none, failed calls marked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown
from cr2fast._util.optional import require
from cr2fast.data import chats, clocks, jsonlines, names, source, statuses

if TYPE_CHECKING:
    import polars as pl

_NUMBERS = ("prompt_tokens", "completion_tokens", "usd", "seconds", "milliseconds")
# What a mapping of columns may name.
COLUMNS = (
    "query_id", "messages", "text", "category", "embedding", "model", "score", *_NUMBERS,
    "started", "ended", "answer", "error", "status", "currency",
)  # fmt: skip
TOKENS = ("prompt_tokens", "completion_tokens")
_DOLLARS = ("USD", "$", "US$", "")
# Objects within objects that become columns, `usage.prompt_tokens`.
_DEPTH = 3


def read(
    log: Any,
    columns: Mapping[str, str] | None,
    needed: Sequence[str],
    notes: list[str] | None = None,
) -> pl.DataFrame:
    """Read a log.

    Parameters
    ----------
    log : path, polars frame, or object with ``__arrow_c_stream__``
    columns : mapping of str to str, optional
        What the log calls our columns, where it is no usual name.
    needed : sequence of str
        Our columns that the log must have.
    notes : list of str, optional
        Where what was not read is said.

    Returns
    -------
    polars.DataFrame
        The columns of :data:`COLUMNS` but for messages, milliseconds, started, ended, status and
        currency: `text` has what a chat's last user turn says, `unasked` what stands there in place
        of a prompt, `seconds` what clocks say, `failed` whether the call is left out, `odd` its
        status where that is why and nobody knows the word. `row` counts the log's rows. Other
        columns stand behind, as ``other.<name>``.
    """
    polars = require("polars", "lab")
    frame = flat(source.frame(log, "log"))
    empty = {c for c in frame.columns if frame[c].null_count() == len(frame)}
    found = names.find(frame.columns, COLUMNS, columns or {}, "log", empty)
    for ours in needed:
        if ours not in found and not (ours == "text" and "messages" in found):
            raise names.missing(ours, frame.columns, "log")
    own = {
        ours: frame[found[ours]] if ours in found else polars.Series([None] * len(frame))
        for ours in COLUMNS
    }
    for ours in _NUMBERS:
        own[ours] = _numbers(own[ours], ours)
    _check_currency(own)
    taken = set(found.values())
    failed, odd = statuses.failed(own["error"], own["status"], found.get("status", ""))
    clocks_of = (found.get("started", "started"), found.get("ended", "ended"))
    said: list[str] = [] if notes is None else notes
    prompts, dialogues = (
        chats.texts(own[c].to_list(), f"log.{found.get(c, c)}", c == "messages")
        for c in ("text", "messages")
    )
    known = {
        "row": np.arange(len(frame)),
        "query_id": _words(own["query_id"], "query_id"),
        "text": [
            chat if prompt is None else prompt
            for prompt, chat in zip(prompts, dialogues, strict=True)
        ],
        "unasked": polars.Series(_unasked(own, prompts, dialogues), dtype=polars.String),
        "category": _words(own["category"], "category"),
        "embedding": own["embedding"],
        "model": _words(own["model"], "model"),
        "score": own["score"],
        "prompt_tokens": own["prompt_tokens"],
        "completion_tokens": own["completion_tokens"],
        "usd": own["usd"],
        "seconds": _seconds(own, failed, clocks_of, said),
        "answer": _answers(own["answer"]),
        "failed": failed,
        "odd": polars.Series(odd, dtype=polars.String),
    }
    others = {f"other.{c}": frame[c] for c in frame.columns if c not in taken}
    out: pl.DataFrame = polars.DataFrame(known | others)
    return out


def _unasked(
    own: Mapping[str, pl.Series], prompts: list[str | None], dialogues: list[str | None]
) -> list[str | None]:
    """What stands in place of a prompt, where none was read; null where nothing does."""
    pairs = zip(own["text"].to_list(), own["messages"].to_list(), strict=True)
    read = zip(prompts, dialogues, strict=True)
    return [
        None if texts != (None, None) else _kind(pair[1] if _is_blank(pair[0]) else pair[0])
        for pair, texts in zip(pairs, read, strict=True)
    ]


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _kind(value: Any) -> str | None:
    if _is_blank(value):
        return None
    if isinstance(value, (bool, int, float)):
        return "a number"
    return "a chat without a user's turn that says something"


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Fields of objects as columns with a dot, `usage.prompt_tokens`; of JSON text in cells too."""
    polars = require("polars", "lab")
    for _ in range(_DEPTH):
        parts: dict[str, pl.Series] = {c: frame[c] for c in frame.columns}
        for c in frame.columns:
            column = frame[c]
            if isinstance(column.dtype, polars.Struct):
                del parts[c]
                inner = column.struct.unnest()
            elif c in names.OBJECTS and column.dtype == polars.String:
                inner = _parsed(column)
            else:
                continue
            for field in inner.columns:
                parts.setdefault(f"{c}.{field}", inner[field])
        if list(parts) == frame.columns:
            break
        frame = polars.DataFrame(parts)
    return frame


def _parsed(column: pl.Series) -> pl.DataFrame:
    """The fields of objects that stand in cells as JSON text."""
    found = [_object(v) for v in column.to_list()]
    fields = dict.fromkeys(k for o in found for k in o)
    values = {k: jsonlines.column(k, [o.get(k) for o in found]) for k in fields}
    out: pl.DataFrame = require("polars", "lab").DataFrame(values)
    return out


def _object(text: str | None) -> dict[str, Any]:
    if text is None or text.lstrip()[:1] != "{":
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return jsonlines.flat(value) if isinstance(value, dict) else {}


def _words(column: pl.Series, what: str) -> pl.Series:
    polars = require("polars", "lab")
    try:
        return column.cast(polars.String)
    except polars.exceptions.PolarsError:
        raise Cr2Error(f"log.{what}: expected text, got {column.dtype}") from None


def _numbers(column: pl.Series, what: str) -> pl.Series:
    polars = require("polars", "lab")
    if column.dtype == polars.String:
        stripped = column.str.strip_chars().str.strip_prefix("$")
        numbers = stripped.cast(polars.Float64, strict=False)
        odd = column.filter(numbers.is_null() & column.is_not_null())
        if len(odd):
            raise Cr2Error(f"log.{what}: expected numbers, got String: {shown(odd[0])}")
        return numbers
    if not (column.dtype.is_numeric() or column.dtype == polars.Null):
        raise Cr2Error(f"log.{what}: expected numbers, got {column.dtype}")
    return column.cast(polars.Float64)


def _answers(column: pl.Series) -> list[str | None]:
    """What was answered, to count its tokens: text, or the first choice of a completion."""
    return [_answered(v) for v in column.to_list()]


def _answered(value: Any) -> str | None:
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = str(value)
    if isinstance(value, dict):
        value = value.get("choices", value)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        message = value.get("message")
        value = message.get("content") if isinstance(message, dict) else value.get("text")
    said: str | None = value if isinstance(value, str) else None
    return said


def _seconds(
    own: Mapping[str, pl.Series], failed: list[bool], names: tuple[str, str], notes: list[str]
) -> pl.Series:
    """Seconds, milliseconds, or the time between two clocks, whichever the log has."""
    seconds, thousandths = own["seconds"], own["milliseconds"]
    if seconds.null_count() < len(seconds) or thousandths.null_count() < len(thousandths):
        return seconds if seconds.null_count() < len(seconds) else thousandths / 1000
    polars = require("polars", "lab")
    between = clocks.seconds(own["started"], own["ended"], failed, names, notes)
    out: pl.Series = polars.Series(between, dtype=polars.Float64)
    return out


def _check_currency(own: Mapping[str, pl.Series]) -> None:
    """Refuse bills in other money than dollars."""
    billed = own["usd"].is_not_null() & own["currency"].is_not_null()
    found = {str(c) for c in own["currency"].filter(billed).to_list()}
    others = sorted(c for c in found if c.strip().upper() not in _DOLLARS)
    if others:
        raise Cr2Error(
            f"log.usd: expected dollars throughout, got bills in {shown(others)} (column "
            f"currency); convert them first, or read the log without that column"
        )
