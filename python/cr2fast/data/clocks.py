"""Seconds between two clocks of a call, whatever they count.

In: columns of start and end: dates, ISO 8601 text, or numbers since 1970, as text too. Out: seconds
per call, notes of what is no clock, or an error that names the row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown
from cr2fast.data.names import UNIT_OF_CLOCK

if TYPE_CHECKING:
    import polars as pl

# Years 2000 to 2100 in seconds since 1970. In milliseconds, micro- and nanoseconds they are other
# numbers altogether, so that the size tells the unit.
_SINCE, _UNTIL = 946_684_800, 4_102_444_800
_UNITS = (1, 1_000, 1_000_000, 1_000_000_000)
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
# Python reads six digits of a second.
_FRACTION = re.compile(r"(\.\d{6})\d+")


class _Instant(NamedTuple):
    seconds: float
    zoned: bool | None  # None of a number, which counts from 1970 in UTC.


def seconds(
    started: pl.Series,
    ended: pl.Series,
    failed: Sequence[bool],
    names: tuple[str, str],
    notes: list[str],
) -> list[float | None]:
    """Seconds from start to end, null where a clock is missing.

    Parameters
    ----------
    started, ended : Series
    failed : sequence of bool
        Calls whose clocks nobody looks at.
    names : tuple of str
        What the log calls the two columns.
    notes : list of str
        What was not read is said here.

    Raises
    ------
    Cr2Error
        A clock that is neither seconds, milli-, micro- nor nanoseconds since 1970 beside others
        that are; an end before its start; one with a time zone and one without.
    """
    pairs = [
        (None, None) if bad else (a, b)
        for a, b, bad in zip(started.to_list(), ended.to_list(), failed, strict=True)
    ]
    numbers = [[_number(v) for v in column] for column in zip(*pairs, strict=True)]
    told = [n for column in numbers for n in column if n is not None and _epoch(n) is not None]
    if not told and (bare := [n for column in numbers for n in column if n is not None]):
        span = f"{min(bare):.6g} to {max(bare):.6g}"
        notes.append(f"{names[0]} and {names[1]} not read, {span}: {UNIT_OF_CLOCK}")
        return [None] * len(pairs)
    unread: list[list[Any]] = [[], []]
    out: list[float | None] = []
    for row, pair in enumerate(pairs):
        ends = [_instant(v, names[k], row, unread[k]) for k, v in enumerate(pair)]
        out.append(_between(ends[0], ends[1], pair, names, row))
    for name, odd in zip(names, unread, strict=True):
        if odd:
            notes.append(
                f"{name}: {len(odd)} of {len(pairs)} calls have no time that can be read, such as "
                f"{shown(odd[0])}; write ISO 8601 text, or numbers since 1970"
            )
    return out


def _between(
    a: _Instant | None, b: _Instant | None, pair: tuple[Any, Any], names: tuple[str, str], row: int
) -> float | None:
    if a is None or b is None:
        return None
    if a.zoned is not None and b.zoned is not None and a.zoned != b.zoned:
        with_zone, without = names if a.zoned else names[::-1]
        raise Cr2Error(
            f"log: expected {names[0]} and {names[1]} with time zones or both without, got "
            f"{with_zone} with one and {without} without in row {row}: {shown(str(pair[0]))}, "
            f"{shown(str(pair[1]))}"
        )
    if b.seconds < a.seconds:
        raise Cr2Error(
            f"log.{names[1]}: expected times after {names[0]}, got {shown(str(pair[1]))} after a "
            f"start at {shown(str(pair[0]))} in row {row}; look at their time zones, or leave "
            f"these columns out"
        )
    return b.seconds - a.seconds


def _number(value: Any) -> float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value):
        return float(value)
    return None


def _epoch(number: float) -> float | None:
    """Seconds since 1970; None of a number that counts from elsewhere."""
    for unit in _UNITS:
        if _SINCE * unit <= number < _UNTIL * unit:
            return number / unit
    return None


def _instant(value: Any, name: str, row: int, unread: list[Any]) -> _Instant | None:
    number = _number(value)
    if number is not None:
        found = _epoch(number)
        if found is None and number:  # 0 stands for no time.
            raise Cr2Error(
                f"log.{name}: expected seconds, milliseconds, microseconds or nanoseconds since "
                f"1970, of a year from 2000 to 2099, got {shown(value)} in row {row}"
            )
        return None if found is None else _Instant(found, None)
    if isinstance(value, str) and value.strip():
        text = _FRACTION.sub(r"\1", value.strip().replace("Z", "+00:00"))
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            unread.append(value)
            return None
    if isinstance(value, datetime):
        zoned = value.tzinfo is not None
        return _Instant((value if zoned else value.replace(tzinfo=timezone.utc)).timestamp(), zoned)
    if isinstance(value, (bool, date)):  # A day tells no seconds.
        unread.append(value)
    return None
