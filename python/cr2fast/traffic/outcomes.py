"""Grades of answers, joined to their requests by id: late, twice or never.

In: outcome lines of a log, in the order in which they came. Out: columns ``score``, ``graded_at``
and ``grade_delay_s`` of a log's frame, and counts.
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
        Requests with a grade.
    never : int
        Answered requests without one (so far).
    twice : int
        Grades that repeat an earlier one of the same request; the first counts.
    revised : int
        Grades that say otherwise than an earlier one of the same request; the last counts.
    orphans : int
        Grades of requests that no line of the log tells of.
    latest_s : float
        Longest time from a request to its grade, s.
    """

    graded: int = 0
    never: int = 0
    twice: int = 0
    revised: int = 0
    orphans: int = 0
    latest_s: float = 0.0


def is_outcome(value: dict[str, Any]) -> bool:
    """Whether a line grades an answer, rather than telling of a request."""
    return value.get("kind") == "outcome"


class Grades:
    """Grades by request id, the last word of each."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[float, datetime]] = {}
        self.twice = 0
        self.revised = 0

    def add(self, value: dict[str, Any]) -> None:
        """Take a line's grade.

        Raises
        ------
        lines.WrongError
        """
        found = lines.read(value, lines.OUTCOME_FIELDS, tuple(lines.OUTCOME_FIELDS))
        before = self.kept.get(found["id"])
        if before is not None and before[0] == found["score"]:
            self.twice += 1
            return
        self.revised += before is not None
        self.kept[found["id"]] = (found["score"], found["ts"])

    def join(self, frame: pl.DataFrame, known: set[str]) -> tuple[pl.DataFrame, OutcomeCounts]:
        """The frame with its grades, and how they fit; `known` are the ids of the whole log."""
        polars = require("polars", "lab")
        grades = polars.DataFrame(
            [(key, score, at) for key, (score, at) in self.kept.items()],
            schema={
                "id": polars.String,
                "score": polars.Float64,
                "graded_at": polars.Datetime("us", "UTC"),
            },
            orient="row",
        )
        out = frame.join(grades, on="id", how="left", maintain_order="left").with_columns(
            grade_delay_s=(polars.col("graded_at") - polars.col("ts")).dt.total_microseconds() / 1e6
        )
        answered = out.filter(polars.col("outcome") == "answered")
        return out, OutcomeCounts(
            graded=out.height - out["score"].null_count(),
            never=answered["score"].null_count(),
            twice=self.twice,
            revised=self.revised,
            orphans=sum(key not in known for key in self.kept),
            latest_s=max(out["grade_delay_s"].drop_nulls().to_list(), default=0.0),
        )
