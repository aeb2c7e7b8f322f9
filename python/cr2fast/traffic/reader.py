"""Lines become rows: file after file, in pieces that hold little memory.

In: the files of a log. Out: a polars frame, grades and shadows, lines kept apart, and what the
clock and the traffic did meanwhile.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from cr2fast._core import Cr2Error
from cr2fast._util.optional import require
from cr2fast.traffic import files, lines
from cr2fast.traffic.found import ClockStep, Found, Gap
from cr2fast.traffic.lines import TornError, UnknownError, WrongError
from cr2fast.traffic.outcomes import Grades, Shadows

if TYPE_CHECKING:
    import polars as pl

# Records are written as requests end; the writer's queue may reorder them by this much, s.
_JITTER_S = 1.0
# Lines of which the words are kept; all are counted.
_KEPT = 1000
# Rows in plain types before they become a piece of the frame.
_PIECE = 8192


_ALARM_NEEDS = tuple(name for name in lines.ALARM_FIELDS if name != "group")


class _Clock:
    """Gaps and backward steps in one log, whose records were written as their requests ended."""

    def __init__(self, log: str, gap_s: float, found: Found) -> None:
        self._log, self._gap_s, self._found = log, gap_s, found
        self._came: datetime | None = None
        self._ended: datetime | None = None

    def see(self, row: dict[str, Any], file: str, line: int) -> None:
        """The next record of the log."""
        ts: datetime = row["ts"]
        end = ts + timedelta(seconds=min(row["total_s"] or 0.0, 1e9))
        if self._ended is not None and self._came is not None:
            back = (self._ended - end).total_seconds()
            if back > _JITTER_S:
                self._found.clock_steps.append(ClockStep(self._log, ts, file, line, back))
                self._came = self._ended = None
            elif (silent := (ts - self._came).total_seconds()) > self._gap_s:
                self._found.gaps.append(Gap(self._log, self._came, ts, silent))
        self._came = ts if self._came is None else max(self._came, ts)
        self._ended = end if self._ended is None else max(self._ended, end)


class Reader:
    """Rows, grades and lines apart.

    Parameters
    ----------
    gap_s : float
        Seconds without a request that count as a gap.
    since : datetime, optional
        Earlier rows are counted and not kept.

    Attributes
    ----------
    known : set of str
        Ids of all requests, whenever they came.
    """

    def __init__(self, gap_s: float, since: datetime | None) -> None:
        self.grades = Grades()
        self.shadows = Shadows()
        self.alarms: list[dict[str, Any]] = []
        self.apart: list[tuple[str, int, str, str]] = []
        self.found = Found()
        self.known: set[str] = set()
        self._gap_s, self._since = gap_s, since
        self._rows: list[dict[str, Any]] = []
        self._pieces: list[pl.DataFrame] = []
        self._seen: dict[str, dict[str, bytes]] = {}
        self._clocks: dict[str, _Clock] = {}

    def frame(self) -> pl.DataFrame:
        """All rows that were kept, in the order of the files."""
        polars = require("polars", "lab")
        self._flush()
        frame: pl.DataFrame = polars.concat(self._pieces or [_frame([])])
        return frame

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
        if kind == "outcome":
            return self.grades.add(value)
        if kind == "shadow":
            return self.shadows.add(value)
        if kind == "alarm":
            self.alarms.append(lines.read(value, lines.ALARM_FIELDS, _ALARM_NEEDS))
            return None
        row, strange = lines.record(value)
        for name in strange:
            shorter = name[:80]
            self.found.unknown_fields[shorter] = self.found.unknown_fields.get(shorter, 0) + 1
        seen = self._seen.setdefault(source.log, {})
        digest = blake2b(data.strip(), digest_size=8).digest()
        before = seen.get(row["id"])
        if before is None:
            seen[row["id"]] = digest
            self._add(row, source, line)
        elif before == digest:
            self.found.duplicates += 1
        else:
            self.found.conflicting += 1
            words = f"id: expected one line of {row['id']!r}, got another that says otherwise"
            self._keep(source, line, "conflicting", words)
        return None

    def _add(self, row: dict[str, Any], source: files.Source, line: files.Line) -> None:
        self.known.add(row["id"])
        if source.log not in self._clocks:
            self._clocks[source.log] = _Clock(source.log, self._gap_s, self.found)
        self._clocks[source.log].see(row, str(source.path), line.number)
        if self._since is not None and row["ts"] < self._since:
            self.found.outside += 1
            return
        row["log"] = source.log
        self._rows.append(row)
        if len(self._rows) >= _PIECE:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._pieces.append(_frame(self._rows))
            self._rows = []

    def _keep(self, source: files.Source, line: files.Line, why: str, words: str) -> None:
        if len(self.apart) < _KEPT:
            self.apart.append((str(source.path), line.number, why, words))


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    polars = require("polars", "lab")
    single, text, names = polars.Float32, polars.String, polars.List(polars.String)
    others = {
        "ts": polars.Datetime("us", "UTC"), "stream": polars.Boolean, "margin": single,
        "threshold": single, "failed": names, "link_measured": names, "available": names,
        "queueing_s": polars.List(polars.Struct({"model": text, "seconds": polars.Float64})),
        "embedding": polars.List(single), "trace": text,
        "text": text,
    }  # fmt: skip
    for column in ("id", "endpoint", "group", "place", "model", "why", "outcome", "router", "log"):
        others[column] = text
    for column in ("status", "n_input_tokens_estimated", "n_input_tokens", "n_output_tokens"):
        others[column] = polars.Int64
    columns = {}
    for name in (*lines.FIELDS, *lines.LINK, *lines.LIMITS, "log"):
        values = [row[name] for row in rows]
        if name == "embedding":
            values = [None if x is None else polars.Series(x) for x in values]
        columns[name] = polars.Series(name, values, dtype=others.get(name, polars.Float64))
    frame: pl.DataFrame = polars.DataFrame(columns)
    return frame


def alarms_frame(alarms: list[dict[str, Any]]) -> pl.DataFrame:
    """The alarms of a log, a row each, by time; a line that came twice stands once."""
    polars = require("polars", "lab")
    text, number = polars.String, polars.Float64
    schema = dict.fromkeys(lines.ALARM_FIELDS, number) | {
        "id": text, "ts": polars.Datetime("us", "UTC"), "group": text, "n": polars.Int64,
        "on_alarm": text, "threshold": polars.Float32, "router": text,
    }  # fmt: skip
    frame: pl.DataFrame = polars.DataFrame(alarms, schema=schema)
    return frame.unique(maintain_order=True).sort("ts", maintain_order=True)
