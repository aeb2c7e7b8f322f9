"""What a watch remembers between its looks: an alarm per operating point, and what it has counted.

In: a file, perhaps of another watch, truncated or forged. Out: :class:`State`, or an error that
says what to do; and the file, written whole or not at all.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error, RiskAlarm
from cr2fast._util.checks import explained, shown
from cr2fast._util.files import write_whole

SCHEMA = "cr2fast.watch/1"
# A state of 10 million requests; a larger file is none.
_MAX_BYTES = 1 << 27


@dataclass
class Watched:
    """One operating point under watch.

    Attributes
    ----------
    lam, alpha : float
    threshold : float or None
        The threshold that the alarm is about; None before the first look.
    alarm : RiskAlarm
    group : str or None
        Whose threshold; None where it is that of all.
    """

    lam: float
    alpha: float
    threshold: float | None
    alarm: RiskAlarm
    group: str | None = None


@dataclass
class State:
    """What a watch has counted.

    Attributes
    ----------
    delta : float
        Of each alarm.
    points : list of Watched
    seen : ndarray of uint64
        Hashes of the ids that were counted, sorted; those that have left the window are dropped.
    """

    delta: float
    points: list[Watched]
    seen: npt.NDArray[np.uint64]

    @classmethod
    def new(cls, points: Sequence[tuple[float, float]], delta: float) -> State:
        """Nothing counted yet."""
        watched = [Watched(lam, a, None, RiskAlarm(a, delta)) for lam, a in points]
        return cls(delta, watched, np.empty(0, np.uint64))

    @classmethod
    def load(cls, path: Path, points: Sequence[tuple[float, float]], delta: float) -> State:
        """Read a state; a new one where there is no file.

        Raises
        ------
        Cr2Error
            The state of other points or another delta; no state.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return cls.new(points, delta)
        if len(data) > _MAX_BYTES:
            raise _no_state(path, f"a file of more than {_MAX_BYTES} bytes")
        try:
            value = json.loads(data)
            state = cls._of(value)
        except KeyError as error:
            raise _no_state(path, f"JSON without the field {error}") from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise _no_state(path, explained(error)) from None
        theirs = list(dict.fromkeys((p.lam, p.alpha) for p in state.points))
        if set(theirs) != set(points) or state.delta != delta:
            # Of many points, those that make the difference.
            ours = [p for p in points if p not in theirs] or list(points)
            others = [p for p in theirs if p not in points] or theirs
            raise Cr2Error(
                f"state: expected a watch of lam, alpha {shown(ours)} at delta {delta!r}, "
                f"got one of {shown(others)} at delta {state.delta!r} in {path}; name another "
                f"file, or remove this one to begin anew"
            )
        return state

    @classmethod
    def _of(cls, value: Any) -> State:
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema {shown(value['schema'])} where {SCHEMA!r} belongs")
        points = []
        for p in value["points"]:
            alpha = float(p["alpha"])
            alarm = RiskAlarm.from_bytes(
                base64.b64decode(p["alarm"], validate=True), alpha, float(value["delta"])
            )
            tau = p["threshold"]
            group = p.get("group")
            if group is not None and not isinstance(group, str):
                raise TypeError(f"group {shown(group)} where a name belongs")
            tau = None if tau is None else float(tau)
            points.append(Watched(float(p["lam"]), alpha, tau, alarm, group))
        seen = np.frombuffer(base64.b64decode(value["seen"], validate=True), "<u8")
        return cls(float(value["delta"]), points, np.unique(seen).astype(np.uint64))

    def save(self, path: Path) -> None:
        """Write the file whole.

        Raises
        ------
        OSError
            No such folder, no permission, a full disk; an existing file stays as it was.
        """
        value = {
            "schema": SCHEMA,
            "delta": self.delta,
            "points": [
                {
                    "lam": p.lam,
                    "alpha": p.alpha,
                    "group": p.group,
                    # JSON has no infinity.
                    "threshold": None if p.threshold is None else str(p.threshold),
                    "alarm": base64.b64encode(p.alarm.to_bytes()).decode(),
                }
                for p in self.points
            ],
            "seen": base64.b64encode(self.seen.astype("<u8").tobytes()).decode(),
        }
        write_whole(path, json.dumps(value).encode())


def _no_state(path: Path, got: str) -> Cr2Error:
    return Cr2Error(
        f"state: expected the state of a watch in {path}, got {got}; name another file, or remove "
        f"this one to begin anew"
    )


def hashes(ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """A hash (N,) of each id."""
    digests = b"".join(blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, "<u8").astype(np.uint64)
