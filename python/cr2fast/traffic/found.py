"""What a reading of a log found beside its rows.

In: counts as lines are read. Out: :class:`Found`, and its faults in words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cr2fast.traffic.outcomes import OutcomeCounts, ShadowCounts


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
    alarms : int
        Alarms that the gateway raised in that time: lines of their own, no rows.
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
    alarms: int = 0
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
            (self.alarms, f"the gateway raised {self.alarms} alarms"),
            (
                len(self.unknown_fields),
                f"fields that this version does not know: {sorted(self.unknown_fields)[:10]}",
            ),
        ]
        return [words for count, words in said if count]
