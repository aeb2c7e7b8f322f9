"""Read a decision log: one row per request, and what was not read kept apart and counted.

In: the files of one log or of several (a device's and its edge's). Out: :class:`DecisionLog`, a
polars frame with the fields of ``docs/reference/decision-log.md``, and a word about torn lines,
gaps, clock steps and duplicates.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from cr2fast._core import Cr2Error
from cr2fast._util import forked
from cr2fast._util.checks import real, shown
from cr2fast._util.optional import require
from cr2fast.traffic import files, lines
from cr2fast.traffic.found import Found
from cr2fast.traffic.reader import Reader, alarms_frame

if TYPE_CHECKING:
    import polars as pl

# Two logs may give one request times that differ by as much; so much more is read before a window.
_SLACK = timedelta(hours=1)


class LogWarning(UserWarning):
    """Some lines of a log were not read, or its clock or its traffic has holes."""


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
    alarms : polars.DataFrame
        The gateway's alarms of that time, a row each: ``ts``, ``lam``, ``alpha``, ``group``, ``n``
        labels of which ``risk`` were false acceptances, ``log_wealth``, ``delta``, ``on_alarm``,
        the ``threshold`` from then on, ``router``, and ``id`` of the request that raised it.
    """

    frame: pl.DataFrame
    apart: pl.DataFrame
    found: Found
    alarms: pl.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    def undecided(self, routed: Sequence[str]) -> dict[str, int]:
        """How many requests have a `why` that is none of these, by why.

        Those without one were refused before anything was decided, as a rule: by outcome and
        status.
        """
        polars = require("polars", "lab")
        others = self.frame.filter(~polars.col("why").is_in(routed).fill_null(False))
        counts = others.group_by("why", "outcome", "status").len().sort("len", descending=True)
        out: dict[str, int] = {}
        for why, outcome, status, n in counts.rows():
            if why is not None:
                words = str(why)
            elif outcome == "answered":
                words = "for no reason that the log gives"
            else:
                words = f"{outcome} before a decision" + (f" (status {status})" if status else "")
            out[words] = out.get(words, 0) + n
        return dict(sorted(out.items(), key=lambda pair: -pair[1]))

    def unread(self) -> str:
        """What is wrong with the first line that is no row, behind an error; else nothing."""
        if not self.apart.height:
            return ""
        file, line, _, words = self.apart.row(0)
        lost = self.found.torn + self.found.wrong + self.found.too_long
        return f". {lost} lines were not read, such as line {line} of {file}: {words}"

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
    reader = Reader(gap_s, first and first - _SLACK)
    for source in files.sources(paths, first):
        reader.file(source)
    found = reader.found
    if not reader.known and not reader.grades.kept:
        raise Cr2Error(
            f"log: expected lines of schema {lines.SCHEMA!r}, a gateway's decision log, got none "
            f"in {shown(paths)}" + (f"; {reader.apart[0][3]}" if reader.apart else "")
        )
    frame = _merged(reader.frame(), found)
    here = frame.filter(
        polars.lit(True) if first is None else polars.col("ts") >= first,
        polars.lit(True) if last is None else polars.col("ts") < last,
    )
    found.outside += frame.height - here.height
    found.routers = dict(here["router"].value_counts(sort=True).rows())
    frame, found.shadows = reader.shadows.join(here, reader.known)
    frame, found.outcomes = reader.grades.join(frame, reader.known)
    apart = polars.DataFrame(
        reader.apart,
        schema={"file": polars.String, "line": polars.Int64, "why": polars.String,
                "words": polars.String},
        orient="row",
    )  # fmt: skip
    alarms = alarms_frame(reader.alarms).filter(
        polars.lit(True) if first is None else polars.col("ts") >= first,
        polars.lit(True) if last is None else polars.col("ts") < last,
    )
    found.alarms = alarms.height
    return DecisionLog(frame, apart, found, alarms)


def _merged(frame: pl.DataFrame, found: Found) -> pl.DataFrame:
    """One row per request: the log that decided, its blanks filled from the other."""
    polars = require("polars", "lab")
    if frame["log"].n_unique() > 1:
        rows = frame.height
        frame = (
            frame.sort(polars.col("margin").is_null(), maintain_order=True)
            .group_by("id", maintain_order=True)
            .agg(polars.all().drop_nulls().first())
            .sort("ts", maintain_order=True)
        )
        found.merged = rows - frame.height
    return frame.drop("log")


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


def embeddings(frame: pl.DataFrame, dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(N, d) of the rows of a log, all of which have an embedding of width `dim`."""
    widths = frame["embedding"].list.len()
    if (other := frame.filter(widths != dim)).height:
        raise Cr2Error(
            f"log: expected embeddings of width {dim}, the router's, got "
            f"{other['embedding'].list.len()[0]} for {other['id'][0]!r} ({other.height} such "
            f"rows): another encoder made them"
        )
    flat = frame["embedding"].explode() if frame.height else None
    out = np.empty(0, np.float32) if flat is None else flat.to_numpy()
    return np.ascontiguousarray(out, dtype=np.float32).reshape(frame.height, dim)
