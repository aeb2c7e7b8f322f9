"""New thresholds from logged traffic, which the teacher labels for free.

In: a window of a log and the router that serves. Out: :class:`Recalibration`: a router with the
same networks and new thresholds, whether the traffic had drifted, how the thresholds moved, and a
check on a held part of the window. With judge = teacher and predicted lengths a label needs no
answer, so this is calibration as ever, on queries that are exchangeable with the next ones as far
as the window is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error, InfeasibleAlphaError, OperatingPointError
from cr2fast._util.checks import check_type, fraction, shown
from cr2fast.calibration import CalibrationReport, accepted, threshold_word
from cr2fast.calibration.drift import DriftReport
from cr2fast.calibration.groups import thresholds_by_group
from cr2fast.data.queries import QueryTable
from cr2fast.evaluation.intervals import risk_tail
from cr2fast.router import Router
from cr2fast.traffic.label import (
    Link,
    Log,
    Traffic,
    check_both_places,
    groups_of,
    judge,
    link_states,
    opened,
    seen_states,
    traffic_of,
)
from cr2fast.traffic.rows import NO_TEXT


@dataclass(frozen=True)
class Held:
    """The new thresholds on the part of the window that did not make them, at one point.

    Attributes
    ----------
    lam, alpha : float
    n : int
        Requests held, of the group where it has one.
    false_acceptances : int
        Those that the new threshold would have kept local although the teacher prefers an edge
        model, at the link states that were measured.
    risk : float
    p_value : float
        Chance of so many if the promise holds with equality
        (:func:`cr2fast.evaluation.intervals.risk_tail`).
    good : bool
        Whether the p-value is above the level, divided among the points and groups.
    group : str or None
        Whose threshold; None where it is that of all.
    """

    lam: float
    alpha: float
    n: int
    false_acceptances: int
    risk: float
    p_value: float
    good: bool
    group: str | None = None


@dataclass(frozen=True, eq=False)
class Recalibration:
    """A router with new thresholds, and what speaks for it.

    Attributes
    ----------
    router : Router
        The same networks, newly calibrated. The router that was given stays as it is.
    report : CalibrationReport
    before, after : ndarray of float32, (L, A)
        Thresholds of the grid.
    drift : tuple of DriftReport
        At each cost weight that the traffic asked for: do its margins look like those of the old
        calibration?
    held : tuple of Held
        The check on the latest part of the window, at each operating point of the traffic.
    left_out : dict of str to int
        Requests of the log that were not used, by why.
    groups_before, groups_after : dict of str to ndarray of float32, (L, A)
        Thresholds of each group; empty without groups. A group of too few requests in the window
        defers at the levels that they cannot promise; one without any is unknown from now on.
    """

    router: Router
    report: CalibrationReport
    before: npt.NDArray[np.float32]
    after: npt.NDArray[np.float32]
    drift: tuple[DriftReport, ...]
    held: tuple[Held, ...]
    left_out: dict[str, int]
    groups_before: dict[str, npt.NDArray[np.float32]]
    groups_after: dict[str, npt.NDArray[np.float32]]

    @property
    def good(self) -> bool:
        """Whether the check on the held part speaks for the new thresholds at every point."""
        return all(h.good for h in self.held)

    @property
    def held_n(self) -> int:
        """Requests that are held for the check, at one point."""
        points = {(h.lam, h.alpha) for h in self.held}
        return sum(h.n for h in self.held) // max(1, len(points))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        words = [[threshold_word(t) for t in row] for row in self.before.tolist()]
        return {
            "good": self.good,
            "calibration": self.report.to_dict(),
            "thresholds_before": words,
            "groups_before": _words(self.groups_before),
            "groups_after": _words(self.groups_after),
            "drift": [d.__dict__ for d in self.drift],
            "held": [h.__dict__ for h in self.held],
            "left_out": self.left_out,
        }

    def __str__(self) -> str:
        held = self.held_n
        lines = [f"{self.report.n} requests calibrate, {held} are held for the check."]
        lines += [str(d) for d in self.drift]
        for h in self.held:
            i = int(np.abs(self.report.lams - h.lam).argmin())
            j = int(np.abs(self.report.alphas - h.alpha).argmin())
            before, after, of = self.before, self.after, ""
            if h.group is not None:
                none = np.full_like(self.after, np.inf)
                before = self.groups_before.get(h.group, none)
                after, of = self.groups_after[h.group], f" group {shown(h.group)}"
            lines.append(
                f"lam={h.lam:g} alpha={h.alpha:g}{of}: threshold {before[i, j]:+.4f} -> "
                f"{after[i, j]:+.4f}; on the held part {h.false_acceptances} of {h.n} falsely "
                f"accepted, {h.risk:.2%} (p = {h.p_value:.3g}): {'good' if h.good else 'BAD'}"
            )
        if gone := sorted(set(self.groups_before) - set(self.groups_after)):
            lines.append(f"Groups without a request in the window, unknown now: {shown(gone)}.")
        if self.left_out:
            lines.append(
                "Left out: " + ", ".join(f"{n} {why}" for why, n in self.left_out.items()) + "."
            )
        if NO_TEXT in self.left_out:
            lines.append("The promise is about requests whose text is in the log.")
        return "\n".join(lines)


def recalibrate(
    log: Log,
    router: Router,
    *,
    held: float = 0.2,
    level: float = 0.01,
    logged_by: Router | Sequence[Router] = (),
    encoder: Any = None,
    link: Link = "table",
    seed: int = 0,
    threads: int = 0,
) -> Recalibration:
    """Calibrate a router on logged traffic, at the points of its present grid.

    Parameters
    ----------
    log : DecisionLog, path, pattern or sequence of paths
        With embeddings of accepted and of deferred requests (the device's log, or it and the
        edge's).
    router : Router
        Calibrated. Its grid, `delta` and `defer_atypical` are kept; the judge is the teacher, with
        predicted lengths. A router with thresholds per group has them made anew from the requests
        of each group; requests that named none calibrate nothing.
    held : float
        Fraction of the requests, the latest, that check the new thresholds and do not make them.
    level : float
        False-alarm rate of the checks for drift, and of the check on the held part over all points.
    logged_by : Router or sequence of Router
        Earlier routers whose decisions the log holds, where their gate is another one.
    encoder : Encoder or StaticEncoder, optional
        The router's, to check that logged texts and embeddings belong together.
    link : {"table", "measured", "logged"}
        Link states that thresholds are made with: drawn from the cost table, as in every
        calibration; those of the log where they were measured, the rest drawn; or as the gateway
        took them to be. The held part is always judged with those that were measured, so that a
        link that has moved shows there.
    seed : int
        Seed of link states that are drawn.
    threads : int
        0: one per core.

    Returns
    -------
    Recalibration
        It prints as a report; :attr:`Recalibration.good` says whether the check went well.

    Raises
    ------
    InfeasibleAlphaError
        Too few requests for a risk level of the grid.
    OperatingPointError
        The router has no thresholds.
    Cr2Error
        A log of another router or encoder; embeddings of one place only.
    """
    check_type(router, Router, "router")
    old = router.calibration
    if old is None:
        raise OperatingPointError("router: expected a calibrated one; call calibrate first")
    held = fraction(held, "held")
    level = fraction(level, "level")
    traffic = traffic_of(opened(log), router, logged_by, encoder)
    check_both_places(traffic)
    last = max(1, round(held * len(traffic)))
    rows = np.arange(len(traffic)) < len(traffic) - last
    if not rows.any():
        raise Cr2Error(
            f"log: expected requests to calibrate with beside the {last} held, got {len(traffic)} "
            f"in all; take a longer window, or lower held="
        )
    new, named = Router(router._core), groups_of(traffic, router)
    left_out = dict(traffic.left_out)
    if named is not None:
        known = np.array([name is not None for name in named])
        if lacking := int((rows & ~known).sum()):
            left_out["that name no group"] = lacking
        rows &= known
        if not rows.any():
            raise Cr2Error("log: expected requests that name their group, got none")
    window = traffic.take(rows)
    # Said below, in this function's words.
    grouped: dict[str, Any] = {"on_infeasible": "defer"}
    if named is not None:
        grouped |= {
            "groups": window.frame["group"].to_list(),
            "unknown_group": old["groups"]["unknown"],
        }
    report = new.calibrate(
        _queries(window, router),
        alphas=old["alphas"].tolist(),
        lams=old["lams"],
        judge="teacher",
        lengths="predicted",
        overlap="drop",
        simultaneous=old["delta"] is not None,
        delta=old["delta"],
        defer_atypical=old["defer_atypical"],
        states=None if link == "table" else link_states(window, router, link, seed),
        seed=seed,
        threads=threads,
        **grouped,
    )
    if None in report.allowed:
        at = report.alphas[report.allowed.index(None)]
        raise InfeasibleAlphaError(
            f"log: expected enough requests to promise alpha={at:g}, got {report.n}; take a longer "
            f"window"
        )
    points = _points(traffic, old["lams"], old["alphas"])
    if report.dropped:
        left_out["that training had seen"] = report.dropped
    return Recalibration(
        router=new,
        report=report,
        before=old["thresholds"],
        after=report.thresholds,
        drift=_drift(traffic, router, sorted({lam for lam, _ in points}), level),
        held=_check(traffic.take(np.arange(len(traffic)) >= len(traffic) - last), new, report,
                    points, level, seed),
        left_out=left_out,
        groups_before=thresholds_by_group(router.calibration),
        groups_after=thresholds_by_group(new.calibration),
    )  # fmt: skip


def _words(thresholds: dict[str, npt.NDArray[np.float32]]) -> dict[str, list[list[Any]]]:
    return {
        name: [[threshold_word(t) for t in row] for row in cells.tolist()]
        for name, cells in thresholds.items()
    }


def _queries(traffic: Traffic, router: Router) -> QueryTable:
    tokens = traffic.n_input_tokens
    # By their texts, where the log has them, training's queries are found in it: rows with features
    # are not the embeddings that training kept.
    texts = traffic.frame["text"].to_list() if "text" in traffic.frame.columns else None
    return QueryTable(
        query_ids=tuple(traffic.frame["id"].to_list()),
        embeddings=traffic.embeddings,
        n_input_tokens=np.minimum(tokens, np.iinfo(np.uint32).max).astype(np.uint32),
        encoder=router.encoder,
        extra={} if texts is None else {"text": texts},
    )


def _points(
    traffic: Traffic, lams: npt.NDArray[np.float64], alphas: npt.NDArray[np.float64]
) -> list[tuple[float, float]]:
    """The operating points that the traffic asked for; the whole grid where they are unknown."""
    asked = traffic.frame.select("lam", "alpha").drop_nulls().unique(maintain_order=True).rows()
    on_grid = [
        (float(lams[i]), float(alphas[j]))
        for lam, alpha in asked
        for i in np.flatnonzero(np.isclose(lams, lam, rtol=1e-9, atol=0))
        for j in np.flatnonzero(np.isclose(alphas, alpha, rtol=1e-9, atol=0))
    ]
    return on_grid or [(float(lam), float(alpha)) for lam in lams for alpha in alphas]


def _drift(
    traffic: Traffic, router: Router, lams: Sequence[float], level: float
) -> tuple[DriftReport, ...]:
    calibration = router.calibration
    if calibration is None or not calibration["quantiles"].size:
        return ()
    states = seen_states(traffic.frame, router)
    margins = router.margins(traffic.embeddings, list(lams), states=states)
    pairs = zip(margins, lams, strict=True)
    return tuple(router.check_drift(row, lam=lam, level=level) for row, lam in pairs)


def _check(
    traffic: Traffic,
    new: Router,
    report: CalibrationReport,
    points: Sequence[tuple[float, float]],
    level: float,
    seed: int,
) -> tuple[Held, ...]:
    """Count false acceptances of the new thresholds among requests that did not make them."""
    judged = judge(traffic, new, "measured", seed)
    typical = (
        True
        if report.defer_atypical is None
        else new.p_values(traffic.embeddings) > report.defer_atypical
    )
    named = groups_of(traffic, new)
    cells: list[tuple[str | None, npt.NDArray[np.float32], Sequence[int | None], int, Any]] = []
    if named is None:
        cells = [(None, report.thresholds, report.allowed, report.n, slice(None))]
    else:
        groups = report.groups
        assert groups is not None
        thresholds = thresholds_by_group(new.calibration)
        of = np.array([name or "" for name in named])
        for group, counts, n in zip(groups.names, groups.allowed, groups.n, strict=True):
            if (of == group).any():
                cells.append((group, thresholds[group], counts, int(n), of == group))
    out = []
    for lam, alpha in points:
        i, j = int(np.abs(report.lams - lam).argmin()), int(np.abs(report.alphas - alpha).argmin())
        margins = new.margins(traffic.embeddings, [lam], states=judged.states)
        prefers = judged.prefers_edge([lam])[0]
        for name, taus, allowed, made_of, rows in cells:
            local = accepted(margins, taus[i : i + 1, j : j + 1])[0, 0] & typical
            false, n = int((local & prefers)[rows].sum()), len(prefers[rows])
            k = allowed[j]
            p = 1.0 if k is None else risk_tail(false, n, k, made_of)
            good = p > level / (len(points) * len(cells))
            out.append(Held(lam, alpha, n, false, false / n, p, good, name))
    return tuple(out)
