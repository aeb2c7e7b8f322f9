"""One line of a decision log: its fields, and what is wrong with them.

In: the bytes of a line. Out: a record in plain types, or the words that say why it is none. The
fields are those of ``docs/reference/decision-log.md``; one that is not known is counted, not read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from cr2fast._util.checks import shown

SCHEMA = "cr2fast.decision_log/1"
_MAX_ID = 200
_MAX_TEXT = 400
_MAX_PROMPT = 1 << 16


class TornError(ValueError):
    """The line is no whole JSON object: cut short by a kill or a full disk, or never one."""


class WrongError(ValueError):
    """A JSON object that is no record: the words say which field, what was expected, what came."""


class UnknownError(ValueError):
    """A record of another format than this version reads."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT:
        raise ValueError(f"text of 1 to {_MAX_TEXT} characters")
    return value


def _prompt(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_PROMPT:
        raise ValueError(f"text of at most {_MAX_PROMPT} characters")
    return value


def _id(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_ID:
        raise ValueError(f"text of 1 to {_MAX_ID} characters")
    return value


def _time(value: Any) -> datetime:
    try:
        found = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        raise ValueError("a time such as 2026-11-26T14:45:00.000000Z") from None
    if found.tzinfo is None:
        raise ValueError("a time with its offset, such as 2026-11-26T14:45:00.000000Z")
    if not 1970 <= found.year < 3000:
        raise ValueError("a time of the years 1970 to 2999")
    return found.astimezone(timezone.utc)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("a finite number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError("a finite number")
    return found


def _amount(value: Any) -> float:
    found = _number(value)
    if found < 0:
        raise ValueError("a number, at least 0")
    return found


def _single(value: Any) -> float:
    with np.errstate(over="ignore"):
        found = float(np.float32(_number(value)))
    if not math.isfinite(found):
        raise ValueError("a number that a float32 holds")
    return found


def _threshold(value: Any) -> float:
    if value in ("inf", "-inf"):
        return float(value)
    try:
        return _single(value)
    except ValueError:
        raise ValueError('a number, "inf" or "-inf"') from None


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError("a whole number, at least 0")
    return value


def _tokens(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise ValueError("a number of tokens, at least 0 and below 2**32")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _probability(value: Any) -> float:
    found = _number(value)
    if not 0 < found <= 1:
        raise ValueError("a probability above 0 and at most 1")
    return found


def _fraction(value: Any) -> float:
    found = _number(value)
    if not 0 <= found <= 1:
        raise ValueError("a number from 0 to 1")
    return found


def _positive(value: Any) -> float:
    found = _number(value)
    if found <= 0:
        raise ValueError("a number above 0")
    return found


def _graded(value: Any) -> str:
    if value not in ("device", "edge", "answer"):
        raise ValueError('"device", "edge" or "answer"')
    return str(value)


def _place(value: Any) -> str:
    if value not in ("device", "edge"):
        raise ValueError('"device" or "edge"')
    return str(value)


def _failed(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
        for pair in value
    ):
        raise ValueError("a list of pairs: an upstream and how it failed")
    return [f"{name}: {how}"[:_MAX_TEXT] for name, how in value]


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        raise ValueError("a list of names")
    return value


def _queueing(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError("an object of models and seconds")
    try:
        return [{"model": str(name), "seconds": _amount(s)} for name, s in value.items()]
    except ValueError:
        raise ValueError("an object of models and seconds, at least 0") from None


def _embedding(value: Any) -> np.ndarray[Any, Any]:
    expected = "a non-empty list of finite numbers"
    if not isinstance(value, list) or not value:
        raise ValueError(expected)
    try:
        found = np.array(value)
    except (ValueError, OverflowError):
        raise ValueError(expected) from None
    if found.ndim != 1 or found.dtype.kind not in "fiu":
        raise ValueError(expected)
    with np.errstate(over="ignore"):
        found = found.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(expected)
    return found


# Field -> how it is read. What is null or missing is null, except in the fields of NEEDED.
FIELDS: dict[str, Callable[[Any], Any]] = {
    "id": _id,
    "ts": _time,
    "endpoint": _text,
    "stream": _flag,
    "lam": _positive,
    "alpha": _probability,
    "group": _text,
    "margin": _single,
    "threshold": _threshold,
    "p_value": _probability,
    "place": _place,
    "model": _text,
    "why": _text,
    "outcome": _text,
    "status": _count,
    "n_input_tokens_estimated": _tokens,
    "n_output_tokens_estimated": _amount,
    "n_input_tokens": _tokens,
    "n_output_tokens": _tokens,
    "ttft_s": _amount,
    "total_s": _amount,
    "latency_s_estimated": _amount,
    "energy_j_estimated": _amount,
    "usd_estimated": _amount,
    "usd": _amount,
    "energy_j_measured": _amount,
    "energy_idle_w": _amount,
    "link_measured": _names,
    "available": _names,
    "queueing_s": _queueing,
    "failed": _failed,
    "router": _text,
    "propensity": _probability,
    "shadow": _probability,
    "trace": _text,
    "embedding": _embedding,
    "text": _prompt,
}
NEEDED = ("id", "ts", "outcome", "router")
# Objects in a record, whose fields become columns: column -> field and how it is read.
LINK = ("rtt_s", "rate_ul_bps", "rate_dl_bps")
LIMITS = ("max_latency_s", "max_energy_j", "max_usd")
OBJECTS: dict[str, dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "link": dict(zip(LINK, zip(LINK, (_amount, _positive, _positive), strict=True), strict=True)),
    "budget": {name: (name.removeprefix("max_"), _amount) for name in LIMITS},
}
_KNOWN = frozenset((*FIELDS, *OBJECTS, "schema", "kind"))
OUTCOME_FIELDS: dict[str, Callable[[Any], Any]] = {
    "id": _id,
    "ts": _time,
    "score": _fraction,
    "place": _graded,
}
SHADOW_FIELDS: dict[str, Callable[[Any], Any]] = {
    "id": _id,
    "ts": _time,
    "place": _place,
    "model": _text,
    "outcome": _text,
    "failure": _text,
    "n_input_tokens": _tokens,
    "n_output_tokens": _tokens,
    "first_content_s": _amount,
    "total_s": _amount,
    "router": _text,
    "propensity": _probability,
}
ALARM_FIELDS: dict[str, Callable[[Any], Any]] = {
    "id": _id,
    "ts": _time,
    "lam": _positive,
    "alpha": _probability,
    "group": _text,
    "delta": _probability,
    "n": _count,
    "risk": _fraction,
    "log_wealth": _number,
    "on_alarm": _text,
    "threshold": _threshold,
    "router": _text,
}
KINDS = ("request", "outcome", "shadow", "alarm")


def parse(data: bytes) -> dict[str, Any]:
    """A line's JSON object.

    Raises
    ------
    TornError, WrongError
        No whole object; one with text that is no Unicode.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_once
        )
    except (ValueError, RecursionError) as error:
        raise TornError(
            f"expected one JSON object, got {shown(data[:60])} ({error})"[:400]
        ) from None
    if not isinstance(value, dict):
        raise TornError(f"expected one JSON object, got {shown(value)}")
    if b"\\u" in data:
        _check_unicode(value)
    return value


def _check_unicode(value: dict[str, Any]) -> None:
    """Refuse half of a pair of escapes, which JSON can spell and no text can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise WrongError(f"text: expected Unicode, got the lone surrogate {half}") from None
    except RecursionError:
        raise TornError("expected one JSON object, got one nested too deeply") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def kind_of(value: dict[str, Any]) -> str:
    """Which of :data:`KINDS` a line is.

    Raises
    ------
    UnknownError, WrongError
        A format that is not read here; no format at all.
    """
    found = value.get("schema")
    if not isinstance(found, str):
        raise WrongError(
            f"schema: expected {SCHEMA!r}, got {'none' if found is None else shown(found)}"
        )
    if found != SCHEMA:
        raise UnknownError(f"schema: expected {SCHEMA!r}, got {shown(found)}")
    if value.get("kind") not in KINDS:
        kind = value.get("kind")
        raise WrongError(
            f"kind: expected one of {KINDS}, got {'none' if kind is None else shown(kind)}"
        )
    return str(value["kind"])


def read(
    value: dict[str, Any], fields: dict[str, Callable[[Any], Any]], needed: Sequence[str]
) -> dict[str, Any]:
    """Checked fields of a JSON object; null where there is none.

    Raises
    ------
    WrongError
    """
    out: dict[str, Any] = {}
    for name, check in fields.items():
        given = value.get(name)
        if given is None:
            if name in needed:
                raise WrongError(f"{name}: expected one, got none")
            out[name] = None
            continue
        try:
            out[name] = check(given)
        except ValueError as error:
            raise WrongError(f"{name}: expected {error}, got {shown(given)}") from None
    return out


def record(value: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A request's record, and the names of the fields that are not known.

    Raises
    ------
    WrongError
    """
    out = read(value, FIELDS, NEEDED)
    for name, columns in OBJECTS.items():
        given = value.get(name)
        if given is not None and not isinstance(given, dict):
            keys = ", ".join(key for key, _ in columns.values())
            raise WrongError(f"{name}: expected an object of {keys}, got {shown(given)}")
        inner = read(given or {}, dict(columns.values()), ())
        out.update({column: inner[key] for column, (key, _) in columns.items()})
    return out, [name for name in value if name not in _KNOWN]
