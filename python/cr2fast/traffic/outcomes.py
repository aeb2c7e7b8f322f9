"""Grades and shadows, joined to their requests by id: late, twice or never.

In: outcome and shadow lines of a log, in the order in which they came. Out: columns of a log's
frame, and counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cr2fast._util.optional import require
from cr2fast.traffic import lines

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class OutcomeCounts:
    """How the grades of a log fit its requests.

    Attributes
    ----------
    graded : int
        Requests whose answer has a grade.
    never : int
        Answered requests without one (so far).
    twice : int
        Grades that repeat an earlier one of the same answer; the first counts.
    revised : int
        Grades that say otherwise than an earlier one of the same answer; the last counts.
    orphans : int
        Grades of requests that no line of the log tells of.
    latest_s : float
        Longest time from a request to its answer's grade, s.
    """

    graded: int = 0
    never: int = 0
    twice: int = 0
    revised: int = 0
    orphans: int = 0
    latest_s: float = 0.0


@dataclass(frozen=True)
class ShadowCounts:
    """How the shadows of a log fit its requests.

    Attributes
    ----------
    found : int
        Requests that were sent to the other side too.
    twice : int
        Shadows of a request that had one; the first counts.
    orphans : int
        Shadows of requests that no line of the log tells of.
    graded : int
        Shadows whose answer has a grade.
    """

    found: int = 0
    twice: int = 0
    orphans: int = 0
    graded: int = 0


class Shadows:
    """Shadows by request id, the first of each."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}
        self._twice = 0

    def add(self, value: dict[str, Any]) -> None:
        """Take a line's shadow.

        Raises
        ------
        lines.WrongError
        """
        needed = ("id", "ts", "place", "outcome", "router", "propensity")
        found = lines.read(value, lines.SHADOW_FIELDS, needed)
        self._twice += found["id"] in self._kept
        self._kept.setdefault(found["id"], found)

    def join(self, frame: pl.DataFrame, known: set[str]) -> tuple[pl.DataFrame, ShadowCounts]:
        """The frame with its shadows; `known` are the ids of the whole log."""
        polars = require("polars", "lab")
        text, number = polars.String, polars.Float64
        kinds = {"place": text, "model": text, "outcome": text, "total_s": number,
                 "propensity": number}  # fmt: skip
        shadows = polars.DataFrame(
            [(key, *(s[name] for name in kinds)) for key, s in self._kept.items()],
            schema={"id": text} | {f"shadow_{name}": kind for name, kind in kinds.items()},
            orient="row",
        )
        out = frame.join(shadows, on="id", how="left", maintain_order="left")
        orphans = sum(key not in known for key in self._kept)
        found = out.height - out["shadow_place"].null_count()
        return out, ShadowCounts(found=found, twice=self._twice, orphans=orphans)


class Grades:
    """Grades by request id and place, the last word of each."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], tuple[float, datetime]] = {}
        self._twice = 0
        self._revised = 0

    def add(self, value: dict[str, Any]) -> None:
        """Take a line's grade.

        Raises
        ------
        lines.WrongError
        """
        found = lines.read(value, lines.OUTCOME_FIELDS, tuple(lines.OUTCOME_FIELDS))
        key = (found["id"], found["place"])
        before = self.kept.get(key)
        if before is not None and before[0] == found["score"]:
            self._twice += 1
            return
        self._revised += before is not None
        self.kept[key] = (found["score"], found["ts"])

    def join(self, frame: pl.DataFrame, known: set[str]) -> tuple[pl.DataFrame, OutcomeCounts]:
        """The frame with its grades, and how they fit; `known` are the ids of the whole log."""
        polars = require("polars", "lab")
        kept = self.kept
        ids, places = frame["id"].to_list(), frame["place"].to_list()
        others = frame["shadow_place"].to_list()
        answers = [
            kept.get((key, "answer")) or kept.get((key, place or ""))
            for key, place in zip(ids, places, strict=True)
        ]
        shadows = [kept.get((key, other or "")) for key, other in zip(ids, others, strict=True)]
        out = frame.with_columns(
            score=polars.Series([a and a[0] for a in answers], dtype=polars.Float64),
            shadow_score=polars.Series([s and s[0] for s in shadows], dtype=polars.Float64),
            graded_at=polars.Series(
                [a and a[1] for a in answers], dtype=polars.Datetime("us", "UTC")
            ),
        ).with_columns(
            grade_delay_s=(polars.col("graded_at") - polars.col("ts")).dt.total_microseconds() / 1e6
        )
        answered = out.filter(polars.col("outcome") == "answered")
        return out, OutcomeCounts(
            graded=out.height - out["score"].null_count(),
            never=answered["score"].null_count(),
            twice=self._twice,
            revised=self._revised,
            orphans=len({key for key, _ in kept} - known),
            latest_s=max(out["grade_delay_s"].drop_nulls().to_list(), default=0.0),
        )
