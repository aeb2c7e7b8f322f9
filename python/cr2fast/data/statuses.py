"""Which calls of a log failed, by what stands in its columns of errors and statuses.

In: the two columns. Out: per call whether it is left out, and the words of statuses that nobody
knows: such calls are left out too, since an answer that never came is no wrong answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cr2fast._util.checks import shown

if TYPE_CHECKING:
    import polars as pl

_NO_ERROR = ("", "null", "none", "nan", "n/a", "false", "0", "[]", "{}", "ok", "success")
# An answer that was cut off is one that can be graded: `length`, `max tokens`.
_GOOD = {
    *_NO_ERROR[:5], "ok", "okay", "success", "successful", "succeeded", "complete", "completed",
    "done", "finished", "passed", "true", "stop", "stop sequence", "end turn", "length",
    "max tokens", "eos", "tool use", "tool calls", "tool call", "function call", "unset", "default",
    "debug", "info", "notice", "warn", "warning", "cached", "cache hit",
}  # fmt: skip
_BAD = re.compile(
    r"fail|error|time ?d? ?out|exception|cancel|abort|rate ?limit|overload|throttl|unavailable"
    r"|refus|reject|denied|expired|incomplete|content ?filter|block|in ?progress|queued|pending"
    r"|running|kill|invalid|crash|quota|unauthori[sz]ed|forbidden|bad request|too many|interrupt"
    r"|disconnect|not found|fatal|critical"
)
_CODE = re.compile(r"(?:http(?:/[\d.]+)? ?)?(-?\d{1,6})(?:\.0*)?(?: .*)?")
_MOST_WORDS = 5


def failed(error: pl.Series, status: pl.Series, name: str) -> tuple[list[bool], list[str | None]]:
    """Whether each call failed; and its status, where that is a word that nobody knows.

    Parameters
    ----------
    error, status : Series
    name : str
        What the log calls the status. A `level` may be anything's, a difficulty's say, so that of
        one an unknown word says nothing.
    """
    pairs = list(zip(error.to_list(), status.to_list(), strict=True))
    good = [_is_good(s) for _, s in pairs]
    level = name.rpartition(".")[2].lower() == "level"
    odd = [
        None if level or known is not None else str(s)
        for (_, s), known in zip(pairs, good, strict=True)
    ]
    out = [
        _is_error(e) or known is False or word is not None
        for (e, _), known, word in zip(pairs, good, odd, strict=True)
    ]
    return out, odd


def left_out(bad: int, odd: Iterable[str | None]) -> list[str]:
    """Notes of calls left out, `bad` in all: failed ones and those of unknown statuses."""
    words = Counter(word for word in odd if word is not None)
    unknown = sum(words.values())
    notes = [f"{bad - unknown} failed calls left out"] if bad > unknown else []
    if unknown:
        most = ", ".join(f"{shown(w)} ({n})" for w, n in words.most_common(_MOST_WORDS))
        more = f" and {len(words) - _MOST_WORDS} others" if len(words) > _MOST_WORDS else ""
        notes.append(
            f"{unknown} calls left out whose status says neither success nor failure: "
            f"{most}{more}; write success or failed there"
        )
    return notes


def _is_error(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() not in _NO_ERROR
    return value not in (None, False, 0, []) and value == value  # NaN is a hole.


def _is_good(status: Any) -> bool | None:
    """Whether a call was answered by its status; None where that cannot be told."""
    if status is None or status != status:
        return True
    if isinstance(status, bool):
        return True if status else None
    if isinstance(status, (int, float)):
        return _is_good_code(status)
    if not isinstance(status, str):
        return None
    word = re.sub(r"[\s_-]+", " ", status.strip().lower()).removeprefix("status code ")
    if word in _GOOD:
        return True
    if code := _CODE.fullmatch(status.strip().lower()):
        return _is_good_code(int(code[1]))
    return False if _BAD.search(word) and not word.startswith("no ") else None


def _is_good_code(code: float) -> bool | None:
    """HTTP's, or 0 where none was."""
    if code >= 400 or code < 0:
        return False
    return True if code == 0 or code >= 100 else None
