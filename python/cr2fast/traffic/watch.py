"""Watch the promise in service, and write a recalibrated router when it is broken.

In: a log that grows, the router's file, a schedule. Out: at each look a :class:`Look` with its
reasons; a new artifact only if the alarm, the data and the check on a held part of the window
agree. The time is the caller's to give, so that nothing here waits in a test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from cr2fast._core import Cr2Error, RiskAlarm
from cr2fast._util.checks import fraction, real, shown, whole
from cr2fast._util.seeds import check_seed
from cr2fast.calibration import index_of
from cr2fast.calibration.groups import thresholds_by_group
from cr2fast.encoders.info import sha256_of
from cr2fast.router import Router
from cr2fast.traffic import files
from cr2fast.traffic.label import NO_EMBEDDING, Traffic, groups_of, judge, traffic_of
from cr2fast.traffic.log import DecisionLog, open_log
from cr2fast.traffic.looks import Look, Point, of_group, told
from cr2fast.traffic.recalibrate import recalibrate
from cr2fast.traffic.rows import NO_TEXT
from cr2fast.traffic.state import State, Watched, hashes

_SECONDS = "a number of seconds, above 0 and below 1e10"


def _now() -> datetime:
    return datetime.now(timezone.utc)


class Watch:
    """Looks at a log, again and again.

    Parameters
    ----------
    log : path, pattern or sequence of paths
        As of :func:`cr2fast.traffic.open_log`; with embeddings of all routed requests.
    router : path
        The artifact that serves. It is read at each look, and replaced by a recalibrated one.
    state : path
        Where alarms are kept between looks; made where there is none.
    points : sequence of (lam, alpha)
        Operating points under watch, on the router's grid. Requests of other points are not
        counted; all routed requests of the window recalibrate.
    delta : float
        Each point's chance of an alarm while the promise holds, however long it is watched.
    window_s : float
        How much of the log recalibrates, back from a look, s.
    min_queries : int
        Fewer requests than this in the window recalibrate nothing.
    held, level : float
        As of :func:`cr2fast.traffic.recalibrate`.
    max_unread : float
        Largest fraction of lines that may be torn or wrong.
    gap_s : float
        Seconds without a request that count as a gap.
    reload : callable, optional
        Called with the artifact's path after it was written, to tell the gateway. What it raises is
        reported; the artifact stays.
    logged_by : Router or sequence of Router
        Earlier routers whose decisions the log holds, where their gate is another one.
    encoder : Encoder or StaticEncoder, optional
        The router's, to check that logged texts and embeddings belong together.
    seed : int
        Seed of link states.

    Raises
    ------
    OperatingPointError
        A point off the router's grid.
    Cr2Error
        The state of another watch; an argument out of range.
    """

    def __init__(
        self,
        log: files.Paths,
        router: str | Path,
        state: str | Path,
        points: Sequence[tuple[float, float]],
        *,
        delta: float = 0.01,
        window_s: float = 7 * 86400.0,
        min_queries: int = 1000,
        held: float = 0.2,
        level: float = 0.01,
        max_unread: float = 0.01,
        gap_s: float = 3600.0,
        reload: Callable[[Path], None] | None = None,
        logged_by: Router | Sequence[Router] = (),
        encoder: Any = None,
        seed: int = 0,
    ) -> None:
        self.log, self.router, self.state = log, Path(router), Path(state)
        if not points:
            raise Cr2Error("points: expected at least one pair (lam, alpha), got none")
        for name, value in (("window_s", window_s), ("gap_s", gap_s)):
            if not 0 < real(value, name, _SECONDS) < 1e10:
                raise Cr2Error(f"{name}: expected {_SECONDS}, got {shown(value)}")
        if not 0 <= real(max_unread, "max_unread", "a number from 0 to 1") <= 1:
            raise Cr2Error(f"max_unread: expected a number from 0 to 1, got {shown(max_unread)}")
        self.delta, self.window_s, self.gap_s = float(delta), float(window_s), float(gap_s)
        self.min_queries = whole(min_queries, "min_queries")
        self.held, self.level = fraction(held, "held"), fraction(level, "level")
        self.max_unread, self.reload, self.seed = float(max_unread), reload, check_seed(seed)
        self.logged_by, self.encoder = logged_by, encoder
        self.points = self._on_grid(Router.load(self.router), points)
        State.load(self.state, self.points, self.delta)

    @staticmethod
    def _on_grid(
        router: Router, points: Sequence[tuple[float, float]]
    ) -> list[tuple[float, float]]:
        """The points as the router's grid spells them."""
        out = []
        for lam, alpha in points:
            two = router.device(lam, alpha)
            out.append((two.lam, two.alpha))
        return out

    def run(
        self,
        every_s: float,
        looks: int | None = None,
        *,
        clock: Callable[[], datetime] = _now,
        sleep: Callable[[float], object] = time.sleep,
    ) -> Iterator[Look]:
        """Look now, and again every `every_s` seconds, for ever or `looks` times.

        What goes wrong at a look (a log that is not there yet, a full disk) is a refusal that says
        so; the next look comes all the same.

        Parameters
        ----------
        every_s : float
            Seconds from the end of a look to the next.
        looks : int, optional
            How many; for ever by default.
        clock, sleep : callable
            Where the time is from, as a datetime with its zone, and what waits.

        Yields
        ------
        Look
        """
        if not 0 < real(every_s, "every_s", _SECONDS) < 1e10:
            raise Cr2Error(f"every_s: expected {_SECONDS}, got {shown(every_s)}")
        done = 0
        while looks is None or done < looks:
            if done:
                sleep(every_s)
            at = clock()
            try:
                yield self.look(at)
            except (Cr2Error, OSError) as error:
                yield Look(at, "refused", (str(error),))
            done += 1

    def look(self, at: datetime) -> Look:
        """Count what came since the last look and, on an alarm, recalibrate.

        Parameters
        ----------
        at : datetime
            The window's end, with its zone.

        Raises
        ------
        Cr2Error
            A log, router or state that cannot be read as what it should be.
        OSError
            A file that is not there, or cannot be written.
        """
        state = State.load(self.state, self.points, self.delta)
        router = Router.load(self.router)
        since = at - timedelta(seconds=self.window_s)
        log = open_log(self.log, since=since, until=at, gap_s=self.gap_s)
        if not len(log):
            return Look(at, "refused", ("No request of the window is in the log.",))
        traffic = traffic_of(log, router, self.logged_by, self.encoder)
        points = self._count(state, traffic, router)
        state.save(self.state)
        raised = [p for p in points if p.alarmed]
        if not raised:
            why = tuple(told(p, self.delta) for p in points)
            return Look(at, "kept", why + _elsewhere(traffic, points), points)
        why = tuple(told(p, self.delta) for p in raised)
        if doubts := self._doubts(log, traffic, since):
            return Look(at, "refused", (*why, *doubts), points)
        try:
            done = recalibrate(
                log, router, held=self.held, level=self.level, logged_by=self.logged_by,
                encoder=self.encoder, seed=self.seed,
            )  # fmt: skip
        except Cr2Error as error:
            return Look(at, "refused", (*why, f"No recalibration: {error}"), points)
        if not done.good:
            bad = [h for h in done.held if not h.good]
            said = (
                f"At lam={h.lam:g}, alpha={h.alpha:g}{of_group(h.group)} the new threshold fails "
                f"on the held part: {h.false_acceptances} of {h.n} falsely accepted "
                f"(p = {h.p_value:.3g}); the traffic moved within the window."
                for h in bad
            )
            return Look(at, "refused", (*why, *said), points, done)
        done.router.save(self.router)
        fresh = State.new(self.points, self.delta)
        fresh.seen = state.seen
        fresh.points = self._watched(fresh, done.router)
        fresh.save(self.state)
        why = (*why, f"Wrote {self.router}, calibrated on {done.report.n} requests.")
        if self.reload is not None:
            try:
                self.reload(self.router)
            except (OSError, RuntimeError, Cr2Error) as error:
                why = (*why, f"It was not reloaded: {error}")
        return Look(at, "written", why, points, done)

    def _count(self, state: State, traffic: Traffic, router: Router) -> tuple[Point, ...]:
        """Give each point's alarm the losses that came since the last look."""
        keys = hashes(traffic.frame["id"].to_list())
        new = ~np.isin(keys, state.seen)
        judged = judge(traffic, router, "measured", self.seed)
        accepted = traffic.accepted
        lam = traffic.frame["lam"].to_numpy()
        alpha = traffic.frame["alpha"].to_numpy()
        used = traffic.frame["threshold"].to_numpy()
        named = groups_of(traffic, router)
        own = None if named is None else np.array([name or "" for name in named])
        # A rolling threshold is this router's at every place it moves to; an infinite one is what
        # the gateway's alarm sets.
        ours = traffic.frame["router"].is_in([router.sha256, sha256_of(self.router)]).to_numpy()
        rolling = ours & np.isfinite(used)
        state.points = self._watched(state, router)
        out = []
        for watched in state.points:
            here = new & np.isclose(lam, watched.lam, rtol=1e-9, atol=0)
            here &= np.isclose(alpha, watched.alpha, rtol=1e-9, atol=0)
            if own is not None and watched.group is not None:
                here &= own == watched.group
            elif own is not None:
                here &= ~np.isin(own, list(thresholds_by_group(router.calibration)))
            # Only what this router decided: rows of an earlier one say nothing of it.
            fixed = used == np.float32(watched.threshold)
            rows = here & (fixed | rolling)
            losses = (judged.prefers_edge([watched.lam])[0] & accepted)[rows]
            if losses.size:
                watched.alarm.update_many(losses.astype(np.float64))
            alarm = watched.alarm
            out.append(
                Point(
                    watched.lam, watched.alpha, int(rows.sum()), alarm.n, alarm.mean, alarm.wealth,
                    alarm.alarmed, watched.group, int((rows & ~fixed).sum()),
                    int((here & ~rows).sum()),
                )
            )  # fmt: skip
        state.seen = np.unique(keys)
        return tuple(out)

    def _watched(self, state: State, router: Router) -> list[Watched]:
        """What is watched of a router: each point or, with groups, each of its thresholds.

        Alarms go on where the threshold is the one that they are about, and begin anew elsewhere.
        """
        before = {(w.lam, w.alpha, w.group): w for w in state.points}
        calibration = router.calibration
        assert calibration is not None
        groups = thresholds_by_group(router.calibration)
        out = []
        for lam, alpha in self.points:
            cell = (
                index_of(calibration["lams"], lam, "lam"),
                index_of(calibration["alphas"], alpha, "alpha"),
            )
            thresholds: dict[str | None, float] = {
                name: float(cells[cell]) for name, cells in groups.items()
            }
            if not groups or calibration["groups"]["unknown"] == "pooled":
                thresholds[None] = float(calibration["thresholds"][cell])
            for group, threshold in thresholds.items():
                watched = before.get((lam, alpha, group))
                if watched is None or watched.threshold not in (None, threshold):
                    watched = Watched(lam, alpha, None, RiskAlarm(alpha, state.delta), group)
                watched.threshold = threshold
                out.append(watched)
        return out

    def _doubts(self, log: DecisionLog, traffic: Traffic, since: datetime) -> list[str]:
        """Why the window is no sample of the traffic, a sentence each."""
        found = log.found
        said = []
        if len(traffic) < self.min_queries:
            said.append(
                f"The window has {len(traffic)} routed requests with embeddings, and min_queries "
                f"is {self.min_queries}."
            )
        if found.unread > self.max_unread * found.lines:
            said.append(
                f"{found.unread} of {found.lines} lines are torn or wrong, more than a fraction "
                f"of {self.max_unread:g}."
            )
        if steps := [s for s in found.clock_steps if s.at >= since]:
            said.append(
                f"The clock went back {len(steps)} times, by up to "
                f"{max(s.seconds for s in steps):.0f} s: which requests are of the window is not "
                f"known."
            )
        if gaps := [g for g in found.gaps if g.before >= since]:
            said.append(
                f"{len(gaps)} gaps of more than {self.gap_s:g} s, the longest "
                f"{max(g.seconds for g in gaps):.0f} s: part of the traffic may be missing; if it "
                f"is not, a longer gap_s says so."
            )
        for why, what in ((NO_EMBEDDING, "embedding"), (NO_TEXT, "text")):
            lacking = traffic.left_out.get(why, 0)
            if lacking > self.max_unread * (len(traffic) + lacking):
                said.append(
                    f"{lacking} routed requests have no {what}, beside {len(traffic)} that can be "
                    f"read: the window is not all of the traffic."
                )
        return said


def _elsewhere(traffic: Traffic, points: Sequence[Point]) -> tuple[str, ...]:
    """That traffic is of no point under watch, where nothing was ever counted."""
    if any(p.n or p.others for p in points):
        return ()
    asked = traffic.frame.select("lam", "alpha").drop_nulls().rows()
    most = max(set(asked), key=asked.count, default=None)
    of = f"; most are of lam={most[0]:g}, alpha={most[1]:g}" if most else ""
    return (f"None of the window's {len(traffic)} routed requests is of a point under watch{of}.",)
