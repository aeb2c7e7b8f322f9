"""Read a decision log: one row per request, and what was not read kept apart and counted.

In: the files of one log or of several (a device's and its edge's). Out: :class:`DecisionLog`, a
polars frame with the fields of ``docs/reference/decision-log.md``, and a word about torn lines,
gaps, clock steps and duplicates.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from cr2fast._core import Cr2Error
from cr2fast._util import forked
from cr2fast._util.checks import real, shown
from cr2fast._util.optional import require
from cr2fast.traffic import files, lines
from cr2fast.traffic.lines import TornError, UnknownError, WrongError
from cr2fast.traffic.outcomes import Grades, OutcomeCounts, ShadowCounts, Shadows

if TYPE_CHECKING:
    import polars as pl

# Records are written as requests end; the writer's queue may reorder them by this much, s.
_JITTER_S = 1.0
# Lines of which the words are kept; all are counted.
_KEPT = 1000


class LogWarning(UserWarning):
    """Some lines of a log were not read, or its clock or its traffic has holes."""


@dataclass(frozen=True)
class Gap:
    """No request for long: between `after` and `before`, in the log `log`, for `seconds`."""

    log: str
    after: datetime
    before: datetime
    seconds: float


@dataclass(frozen=True)
class ClockStep:
    """The clock went back by `seconds`, to `at`: at line `line` of `file`, in the log `log`."""

    log: str
    at: datetime
    file: str
    line: int
    seconds: float


@dataclass
class Found:
    """What a reading found beside its rows.

    Attributes
    ----------
    lines : int
        All lines, empty ones not counted.
    torn, wrong, too_long : int
        Lines that are no whole JSON object (cut short, as a rule); that lack a field or have one of
        another type; that are longer than is read. They are kept apart.
    duplicates, conflicting : int
        Lines whose id came before in the same log, with the same bytes and with others. The first
        line counts; the conflicting ones are kept apart.
    merged : int
        Requests that two logs tell of, a device's and an edge's: one row each.
    outside : int
        Rows before `since` or from `until` on.
    gaps : list of Gap
    clock_steps : list of ClockStep
    outcomes : OutcomeCounts
        Grades: how many were found, and how they fit.
    shadows : ShadowCounts
        Requests that were sent to the other side too, and how they fit.
    routers : dict of str to int
        Rows by the SHA-256 of the router's file.
    unknown_fields : dict of str to int
        Fields that this version does not know, and how often they came.
    """

    lines: int = 0
    torn: int = 0
    wrong: int = 0
    too_long: int = 0
    duplicates: int = 0
    conflicting: int = 0
    merged: int = 0
    outside: int = 0
    gaps: list[Gap] = field(default_factory=list)
    clock_steps: list[ClockStep] = field(default_factory=list)
    outcomes: OutcomeCounts = field(default_factory=OutcomeCounts)
    shadows: ShadowCounts = field(default_factory=ShadowCounts)
    routers: dict[str, int] = field(default_factory=dict)
    unknown_fields: dict[str, int] = field(default_factory=dict)

    @property
    def unread(self) -> int:
        """Lines kept apart."""
        return self.torn + self.wrong + self.too_long + self.conflicting

    def faults(self) -> list[str]:
        """What a reader should know, a sentence each; none for a log without fault."""
        gaps, steps, grades = self.gaps, self.clock_steps, self.outcomes
        said = [
            (self.torn, f"{self.torn} lines are cut short or no JSON"),
            (self.wrong, f"{self.wrong} lines lack a field or have one of another type"),
            (self.too_long, f"{self.too_long} lines are longer than is read"),
            (self.conflicting, f"{self.conflicting} lines contradict an earlier one of their id"),
            (self.duplicates, f"{self.duplicates} lines came twice"),
            (
                len(gaps),
                f"{len(gaps)} gaps without a request, the longest "
                f"{max((g.seconds for g in gaps), default=0):.0f} s",
            ),
            (
                len(steps),
                f"the clock went back {len(steps)} times, at most by "
                f"{max((s.seconds for s in steps), default=0):.0f} s",
            ),
            (grades.twice, f"{grades.twice} outcomes came twice"),
            (grades.revised, f"{grades.revised} outcomes revise an earlier one"),
            (grades.orphans, f"{grades.orphans} outcomes are of requests that are not here"),
            (
                self.shadows.orphans,
                f"{self.shadows.orphans} shadows are of requests that are not here",
            ),
            (
                len(self.unknown_fields),
                f"fields that this version does not know: {sorted(self.unknown_fields)[:10]}",
            ),
        ]
        return [words for count, words in said if count]


@dataclass(frozen=True, eq=False)
class DecisionLog:
    """The requests of a log.

    Attributes
    ----------
    frame : polars.DataFrame
        One row per request, in the order in which they ended (of several logs: by time). Columns
        are the fields of a request (``ts`` is UTC); the link's ``rtt_s``, ``rate_ul_bps``,
        ``rate_dl_bps``; the budget's ``max_latency_s``, ``max_energy_j``, ``max_usd``; of its
        shadow ``shadow_place``, ``shadow_model``, ``shadow_outcome``, ``shadow_total_s``,
        ``shadow_propensity``; of its grades ``score`` (the answer that the client had),
        ``shadow_score``, ``graded_at`` and ``grade_delay_s``. Null is unmeasured.
    apart : polars.DataFrame
        ``file``, ``line``, ``why``, ``words`` of lines that are no rows, the first 1000 of them.
    found : Found
        Counts, gaps, clock steps.
    """

    frame: pl.DataFrame
    apart: pl.DataFrame
    found: Found

    def __len__(self) -> int:
        return len(self.frame)

    def __str__(self) -> str:
        n, f = len(self), self.found
        text = f"{n} requests from {f.lines} lines"
        if n:
            ts = self.frame["ts"].sort()
            text += f", {ts[0]:%Y-%m-%d %H:%M:%S} to {ts[-1]:%Y-%m-%d %H:%M:%S} UTC"
        return "; ".join([text, *f.faults()])


def read_log(
    paths: files.Paths,
    *,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    gap_s: float = 3600.0,
) -> pl.DataFrame:
    """Read a decision log into polars.

    Parameters
    ----------
    paths : path, pattern or sequence of them
        A path stands for its log: the files beside it that were rotated are read first. Several
        logs, such as a device's and its edge's, become one table, with one row per request.
    since, until : datetime or str, optional
        Only requests that came from `since` on and before `until` (ISO 8601; UTC if no offset).
        Files that were set aside before `since` are not read.
    gap_s : float
        Seconds without a request that count as a gap.

    Returns
    -------
    polars.DataFrame
        As :attr:`DecisionLog.frame`. A :class:`LogWarning` says what was not read;
        :func:`open_log` gives the same rows with the counts.

    Raises
    ------
    FileNotFoundError
        No file there.
    Cr2Error
        A line of another schema, or not one line that is a record.
    """
    log = open_log(paths, since=since, until=until, gap_s=gap_s)
    if log.found.faults():
        warnings.warn(f"{log}; open_log tells more", LogWarning, stacklevel=2)
    return log.frame


def open_log(
    paths: files.Paths,
    *,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    gap_s: float = 3600.0,
) -> DecisionLog:
    """Read a decision log as :func:`read_log`, with counts of what was not read."""
    forked.check_polars("read_log")
    polars = require("polars", "lab")
    if not real(gap_s, "gap_s", "a number of seconds, above 0") > 0:
        raise Cr2Error(f"gap_s: expected a number of seconds, above 0, got {shown(gap_s)}")
    first, last = _instant(since, "since"), _instant(until, "until")
    reader = _Reader()
    for source in files.sources(paths, first):
        reader.file(source)
    if not reader.rows and not reader.grades.kept:
        raise Cr2Error(
            f"log: expected lines of schema {lines.SCHEMA!r}, got none in {shown(paths)}"
            + (f"; {reader.apart[0][3]}" if reader.apart else "")
        )
    found = reader.found
    for log in dict.fromkeys(row["log"] for row in reader.rows):
        _clock([row for row in reader.rows if row["log"] == log], gap_s, found)
    rows = _merged(reader.rows, found)
    kept = [r for r in rows if (not first or r["ts"] >= first) and (not last or r["ts"] < last)]
    found.outside = len(rows) - len(kept)
    for row in kept:
        found.routers[row["router"]] = found.routers.get(row["router"], 0) + 1
    frame = _frame(kept)
    known = {r["id"] for r in rows}
    frame, found.shadows = reader.shadows.join(frame, known)
    frame, found.outcomes = reader.grades.join(frame, known)
    apart = polars.DataFrame(
        reader.apart,
        schema={"file": polars.String, "line": polars.Int64, "why": polars.String,
                "words": polars.String},
        orient="row",
    )  # fmt: skip
    return DecisionLog(frame, apart, found)


def _instant(value: datetime | str | None, what: str) -> datetime | None:
    if value is None:
        return None
    expected = "a datetime or ISO 8601 text, such as 2026-11-26T14:00"
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            raise Cr2Error(f"{what}: expected {expected}, got {shown(value)}") from None
    if not isinstance(value, datetime):
        raise TypeError(f"{what}: expected {expected}, got {type(value).__name__}")
    return value if value.tzinfo else value.replace(tzinfo=timezone.utc)


class _Reader:
    """Rows, grades and lines apart, file after file."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.grades = Grades()
        self.shadows = Shadows()
        self.apart: list[tuple[str, int, str, str]] = []
        self.found = Found()
        self._seen: dict[tuple[str, str], bytes] = {}

    def file(self, source: files.Source) -> None:
        """Read all lines of a file."""
        for line in files.lines(source.path):
            self.found.lines += 1
            if line.data is None:
                self.found.too_long += 1
                words = f"expected a line of at most {files.MAX_LINE} bytes, got a longer one"
                self._keep(source, line, "too long", words)
                continue
            try:
                self._line(source, line, line.data)
            except TornError as error:
                self.found.torn += 1
                self._keep(source, line, "torn", str(error))
            except WrongError as error:
                self.found.wrong += 1
                self._keep(source, line, "wrong", str(error))
            except UnknownError as error:
                raise Cr2Error(
                    f"log: {error} in line {line.number} of {source.path}; read it with the "
                    f"cr2fast that its gateway came with, or a later one"
                ) from None

    def _line(self, source: files.Source, line: files.Line, data: bytes) -> None:
        value = lines.parse(data)
        kind = lines.kind_of(value)
        if kind != "request":
            self.grades.add(value) if kind == "outcome" else self.shadows.add(value)
            return
        row, strange = lines.record(value)
        for name in strange:
            shorter = name[:80]
            self.found.unknown_fields[shorter] = self.found.unknown_fields.get(shorter, 0) + 1
        key, digest = (source.log, row["id"]), blake2b(data.strip(), digest_size=8).digest()
        before = self._seen.setdefault(key, digest)
        if len(self._seen) > len(self.rows):
            self.rows.append(row | {"log": source.log, "at": (str(source.path), line.number)})
        elif before == digest:
            self.found.duplicates += 1
        else:
            self.found.conflicting += 1
            words = f"id: expected one line of {row['id']!r}, got another that says otherwise"
            self._keep(source, line, "conflicting", words)

    def _keep(self, source: files.Source, line: files.Line, why: str, words: str) -> None:
        if len(self.apart) < _KEPT:
            self.apart.append((str(source.path), line.number, why, words))


def _clock(rows: list[dict[str, Any]], gap_s: float, found: Found) -> None:
    """Gaps and backward steps in one log, whose records were written as their requests ended."""
    came = ended = None
    for row in rows:
        ts: datetime = row["ts"]
        end = ts + timedelta(seconds=min(row["total_s"] or 0.0, 1e9))
        if ended is not None and came is not None:
            back = (ended - end).total_seconds()
            if back > _JITTER_S:
                file, number = row["at"]
                found.clock_steps.append(ClockStep(row["log"], ts, file, number, back))
                came = ended = None
            elif (silent := (ts - came).total_seconds()) > gap_s:
                found.gaps.append(Gap(row["log"], came, ts, silent))
        came = ts if came is None else max(came, ts)
        ended = end if ended is None else max(ended, end)


def _merged(rows: list[dict[str, Any]], found: Found) -> list[dict[str, Any]]:
    """One row per request: the log that decided, its blanks filled from the other."""
    logs = {row["log"] for row in rows}
    if len(logs) < 2:
        return rows
    first: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: r["margin"] is None):
        there = first.setdefault(row["id"], row)
        if there is not row:
            found.merged += 1
            first[row["id"]] = {k: row[k] if v is None else v for k, v in there.items()}
    return sorted(first.values(), key=lambda r: r["ts"])


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    polars = require("polars", "lab")
    single, text, names = polars.Float32, polars.String, polars.List(polars.String)
    others = {
        "ts": polars.Datetime("us", "UTC"), "stream": polars.Boolean, "margin": single,
        "threshold": single, "failed": names, "link_measured": names, "available": names,
        "queueing_s": polars.List(polars.Struct({"model": text, "seconds": polars.Float64})),
        "embedding": polars.List(single),
    }  # fmt: skip
    for column in ("id", "endpoint", "place", "model", "why", "outcome", "router"):
        others[column] = text
    for column in ("status", "n_input_tokens_estimated", "n_input_tokens", "n_output_tokens"):
        others[column] = polars.Int64
    columns = {}
    for name in (*lines.FIELDS, *lines.LINK, *lines.LIMITS):
        values = [row[name] for row in rows]
        if name == "embedding":
            values = [None if x is None else polars.Series(x) for x in values]
        columns[name] = polars.Series(name, values, dtype=others.get(name, polars.Float64))
    frame: pl.DataFrame = polars.DataFrame(columns)
    return frame


def embeddings(frame: pl.DataFrame, dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(N, d) of the rows of a log, all of which have an embedding of width `dim`."""
    widths = frame["embedding"].list.len()
    if (other := frame.filter(widths != dim)).height:
        raise Cr2Error(
            f"log: expected embeddings of width {dim}, the router's, got "
            f"{other['embedding'].list.len()[0]} for {other['id'][0]!r} ({other.height} such "
            f"rows): another encoder made them"
        )
    flat = frame["embedding"].explode(empty_as_null=False) if frame.height else None
    out = np.empty(0, np.float32) if flat is None else flat.to_numpy()
    return np.ascontiguousarray(out, dtype=np.float32).reshape(frame.height, dim)
