"""Groups with thresholds of their own: the promise within each (Mondrian conformal risk control).

In: a column or a list of names, one per query of a calibration split. Out: names and indices as
Rust takes them, and what a calibration did within each group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cr2fast import _core
from cr2fast._core import Cr2Error, InfeasibleAlphaError
from cr2fast._util.checks import check_text, shown, some
from cr2fast.data.queries import Queries

Unknown = Literal["defer", "pooled"]


@dataclass(frozen=True, eq=False)
class GroupReport:
    """What a calibration did within each group.

    Attributes
    ----------
    names : tuple of str
        (G,), in ascending order.
    n : tuple of int
        (G,) calibration samples of each.
    unknown : {"defer", "pooled"}
        What becomes of a query of another group, or of none.
    thresholds : ndarray of float32, (G, L, A)
        As of :class:`CalibrationReport`, from each group's own samples; +inf, which defers every
        query, where a group is too small for a level.
    allowed : tuple of tuple of (int or None), (G, A)
        False acceptances allowed among each group's samples; None where it is too small.
    empirical_risk, local_rate : ndarray of float64, (G, L, A)
        Fractions of each group's samples.
    """

    names: tuple[str, ...]
    n: tuple[int, ...]
    unknown: str
    thresholds: npt.NDArray[np.float32]
    allowed: tuple[tuple[int | None, ...], ...]
    empirical_risk: npt.NDArray[np.float64]
    local_rate: npt.NDArray[np.float64]

    def infeasible(self, alphas: Sequence[float]) -> dict[str, tuple[float, ...]]:
        """Groups that are too small for some level, with these levels."""
        found = {
            name: tuple(a for a, k in zip(alphas, allowed, strict=True) if k is None)
            for name, allowed in zip(self.names, self.allowed, strict=True)
        }
        return {name: levels for name, levels in found.items() if levels}


def labels(table: Queries, groups: object) -> list[str]:
    """Name the group of each query, (N,): from a column of the table, or as given.

    Raises
    ------
    Cr2Error
        No such column, another length, or a value that is no name.
    """
    if isinstance(groups, str):
        column: Any = table.categories if groups == "category" else table.extra.get(groups)
        if column is None:
            known = sorted(table.extra) + (["category"] if table.categories else [])
            raise Cr2Error(
                f"groups: expected a column of the queries, or a list of names, got "
                f"{shown(groups)}; there are {some(known) or 'no further columns'}"
            )
        what = f"groups: column {groups[:80]!r}"
    else:
        try:
            column = list(groups)  # type: ignore[call-overload]
        except TypeError:
            raise Cr2Error(
                f"groups: expected a column's name or a list of names, got {shown(groups)}"
            ) from None
        what = "groups"
    if len(column) != len(table):
        raise Cr2Error(f"{what}: expected {len(table)} names, one per query, got {len(column)}")
    for i, name in enumerate(column):
        if not isinstance(name, str) or not name:
            raise Cr2Error(
                f"{what}: expected a name (str) for every query, got {shown(name)} for "
                f"{table.query_ids[i][:80]!r}; name it, or leave the query out"
            )
    names = [str(name) for name in column]
    check_text(names, what)
    return names


def grouping(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Distinct names in ascending order of their bytes, and each query's index among them."""
    distinct = sorted(set(names), key=str.encode)
    place = {name: i for i, name in enumerate(distinct)}
    return distinct, [place[name] for name in names]


def check_sizes(
    grouped: tuple[list[str], list[int]], alphas: Sequence[float], lams: int, delta: float | None
) -> None:
    """Refuse a group that is too small for some level."""
    names, of = grouped
    shares = lams * (1 + len(names))
    for name, n in zip(names, np.bincount(of).tolist(), strict=True):
        for alpha, k in zip(alphas, _core.allowed_counts(n, alphas, shares, delta), strict=True):
            if k is None:
                raise InfeasibleAlphaError(
                    f"alpha={alpha} is infeasible with {n} samples of group {name[:80]!r}; "
                    f"calibrate on more of its queries, raise alpha, or pass on_infeasible='defer' "
                    f"(--on-infeasible defer), with which its queries are deferred at that level"
                )


def report(kept: dict[str, Any] | None, done: dict[str, Any] | None) -> GroupReport | None:
    """What a calibration kept and did within groups; None without them."""
    if kept is None or done is None:
        return None
    return GroupReport(
        names=tuple(kept["names"]),
        n=tuple(kept["n"]),
        unknown=kept["unknown"],
        thresholds=kept["thresholds"],
        allowed=tuple(map(tuple, done["allowed"])),
        empirical_risk=done["empirical_risk"],
        local_rate=done["local_rate"],
    )


def thresholds_by_group(
    calibration: dict[str, Any] | None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Thresholds (L, A) of each group, as ``Router.calibration`` has them; none without groups."""
    kept = None if calibration is None else calibration["groups"]
    return {} if kept is None else dict(zip(kept["names"], kept["thresholds"], strict=True))


def statement(
    names: Sequence[str], counts: Sequence[int], unknown: str, infeasible: Sequence[str]
) -> str:
    """What thresholds per group promise, in words."""
    text = (
        f" Within each of {len(names)} groups ({some(list(names))}), which have thresholds of "
        f"their own from {min(counts)} to {max(counts)} queries each: the same promise for that "
        f"group's queries, whatever the mix of groups. A query of another group, or of none, is "
    )
    text += (
        "compared with the threshold of all, whose promise is for the mix of the calibration set."
        if unknown == "pooled"
        else "deferred."
    )
    if infeasible:
        text += (
            f" Too small for some risk levels, where all their queries are deferred: "
            f"{some(list(infeasible))}."
        )
    return text
