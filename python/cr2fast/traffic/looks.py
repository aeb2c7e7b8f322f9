"""What a watch saw at a look, and what it did.

In: counts per operating point, a verdict and its reasons. Out: :class:`Look`, in words and in JSON.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from cr2fast._util.checks import shown
from cr2fast.traffic.recalibrate import Recalibration

Verdict = Literal["kept", "refused", "written"]


@dataclass(frozen=True)
class Point:
    """An operating point at one look.

    Attributes
    ----------
    lam, alpha : float
    group : str or None
        Whose threshold; None where it is that of all.
    new : int
        Requests counted at this look.
    n : int
        Requests counted since the threshold was set.
    risk : float
        Fraction of them falsely accepted.
    wealth : float
        Of the alarm, which is raised at 1 / delta.
    alarmed : bool
    moved : int
        Of the new ones, those that a rolling threshold of this router decided: they count as they
        were served.
    others : int
        New requests at this point that are not counted: another router's threshold decided them,
        or the gateway's alarm deferred them.
    """

    lam: float
    alpha: float
    new: int
    n: int
    risk: float
    wealth: float
    alarmed: bool
    group: str | None = None
    moved: int = 0
    others: int = 0


@dataclass(frozen=True)
class Look:
    """What a look found and did.

    Attributes
    ----------
    at : datetime
    verdict : {"kept", "refused", "written"}
        No alarm; an alarm, but no new router; a new router.
    why : tuple of str
        The reasons, a sentence each.
    points : tuple of Point
    recalibration : Recalibration or None
        Where it came to one.
    """

    at: datetime
    verdict: Verdict
    why: tuple[str, ...]
    points: tuple[Point, ...] = ()
    recalibration: Recalibration | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        done = self.recalibration
        return {
            "at": self.at.isoformat(),
            "verdict": self.verdict,
            "why": list(self.why),
            "points": [asdict(p) for p in self.points],
            "recalibration": None if done is None else done.to_dict(),
        }

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.verdict}: {' '.join(self.why)}"


def of_group(group: str | None) -> str:
    """Whose threshold, for a sentence; nothing where it is that of all."""
    return "" if group is None else f" group {shown(group)}"


def told(p: Point, delta: float) -> str:
    """A point at a look, in words."""
    word = "ALARM" if p.alarmed else "no alarm"
    return (
        f"lam={p.lam:g} alpha={p.alpha:g}{of_group(p.group)}: {word}, "
        + (f"{p.risk:.2%} of {p.n} requests falsely accepted" if p.n else "no request counted yet")
        + f" ({p.new} new; wealth {p.wealth:.3g}, alarm at {1 / delta:g})."
        + (f" A rolling threshold served {p.moved} of the new ones." if p.moved else "")
        + (
            f" Not counted: {p.others} new requests at this point that another threshold than this "
            f"router's decided, an earlier router's or that of the gateway's alarm."
            if p.others
            else ""
        )
    )
