"""A chosen operating point: which (lam, alpha), why, and what to expect there.

In: a choice among the calibrated points (:meth:`cr2fast.Evaluation.choose`). Out:
:class:`OperatingPoint`, which prints as a table, and as a small JSON file that ``cr2fast route``, a
service or a gateway's configuration start from. Reading one needs only numpy.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error, SplitOverlapError
from cr2fast._util.checks import shown
from cr2fast._util.files import write_whole
from cr2fast._util.text import aligned, useful

FORMAT = "cr2fast.point/1"
_LARGEST = 256 << 20


class Expected(NamedTuple):
    """A figure on the validation split, with its 95 % interval.

    Attributes
    ----------
    name : str
        As of :class:`cr2fast.Evaluation`.
    value, low, high : float
    """

    name: str
    value: float
    low: float
    high: float


# How people read a figure: words, scale, format ({}: as many digits as are useful).
_ROWS = {
    "accuracy": ("accuracy", 1, "{:.3f}"),
    "relative_accuracy": ("accuracy, of the big model's", 1, "{:.3f}"),
    "local_rate": ("kept on the device", 1, "{:.3f}"),
    "risk": ("wrongly kept there", 1, "{:.4f}"),
    "latency_s": ("latency, mean, s", 1, "{}"),
    "latency_p95_s": ("latency, 95 % quantile, s", 1, "{}"),
    "energy_j": ("energy, mean, J", 1, "{}"),
    "usd": ("dollars per 1,000 queries", 1000, "{}"),
    "cost": ("normalised cost, mean", 1, "{:.3f}"),
}


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """An operating point, and what to expect there.

    Attributes
    ----------
    lam, alpha : float
        The point, on the calibrated grid.
    wishes : dict of str to float
        What was asked for, by keyword.
    expected : tuple of Expected
        Figures on the validation split. Each interval is that of this point by itself; a point that
        is chosen as the best of many looks a little better than it is.
    n : int
        Validation queries.
    candidates, points : int
        Points that keep the wishes, of those calibrated.
    delta : float or None
        With it, the wishes are promised (:attr:`statement`).
    statement : str
        What is promised, and what is not.
    router : str
        Hash of the router's file; the point means nothing for another one.
    content : ndarray of uint64, (N, K)
        Keys of what the validation queries say.
    """

    lam: float
    alpha: float
    wishes: Mapping[str, float]
    expected: tuple[Expected, ...]
    n: int
    candidates: int
    points: int
    delta: float | None
    statement: str
    router: str
    content: npt.NDArray[np.uint64] = field(repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OperatingPoint) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.lam, self.alpha, self.router))

    def __getitem__(self, name: str) -> Expected:
        for figure in self.expected:
            if figure.name == name:
                return figure
        raise KeyError(name)

    def __str__(self) -> str:
        rows = [("", "expected", "95 % interval", "")]
        for name, *values in self.expected:
            words, scale, form = _ROWS[name]
            value, low, high = (
                useful(scale * v) if form == "{}" else form.format(scale * v) for v in values
            )
            rows.append((words, value, f"{low} to {high}", self._asked(name)))
        head = (
            f"lam {self.lam:g}, alpha {self.alpha:g}: {_best(self.wishes)} of the "
            f"{self.candidates} points that keep the wishes, of {self.points}; on {self.n} "
            f"validation queries"
        )
        return "\n".join([head, aligned(rows), self.statement])

    def _asked(self, figure: str) -> str:
        """The wish about a figure, as it stands beside it."""
        floor = {"accuracy": "min_accuracy", "relative_accuracy": "relative_accuracy"}
        wish = floor.get(figure, f"max_{figure}")
        if (asked := self.wishes.get(wish)) is None:
            return ""
        _, scale, _ = _ROWS[figure]
        return f"at {'least' if figure in floor else 'most'} {scale * asked:.4g}"

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`write` writes."""
        return {
            "format": FORMAT,
            "lam": self.lam,
            "alpha": self.alpha,
            "wishes": dict(self.wishes),
            "expected": {
                e.name: {"value": e.value, "low": e.low, "high": e.high} for e in self.expected
            },
            "n": self.n,
            "candidates": self.candidates,
            "points": self.points,
            "delta": self.delta,
            "statement": self.statement,
            "router": self.router,
            "content": {
                "width": self.content.shape[1],
                "keys": base64.b64encode(self.content.astype("<u8").tobytes()).decode(),
            },
        }

    def write(self, path: str | Path) -> None:
        """Write the point as JSON.

        Raises
        ------
        OSError
            No such folder, no permission, a full disk; an existing file stays as it was.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        write_whole(path, text.encode())

    @classmethod
    def read(cls, path: str | Path) -> OperatingPoint:
        """Read what :meth:`write` wrote.

        Raises
        ------
        Cr2Error
            The file is no chosen point.
        OSError
        """
        path = Path(path)
        if path.stat().st_size > _LARGEST:
            raise Cr2Error(f"{path}: expected a chosen point, got {path.stat().st_size} bytes")
        try:
            data = json.loads(path.read_bytes())
            if data["format"] != FORMAT:
                raise ValueError(f"format {shown(data['format'])}")
            keys = np.frombuffer(base64.b64decode(data["content"]["keys"], validate=True), "<u8")
            n, width = _count(data["n"]), _count(data["content"]["width"])
            if width != 2 or len(keys) != n * width:  # by text and by embedding
                raise ValueError(f"{len(keys)} content keys of {n} queries")
            if data["delta"] is not None and not 0 < _number(data["delta"]) < 1:
                raise ValueError(f"delta {shown(data['delta'])}")
            return cls(
                lam=_positive(data["lam"]),
                alpha=_positive(data["alpha"]),
                wishes={str(k): _number(v) for k, v in data["wishes"].items()},
                expected=tuple(
                    Expected(name, *(_number(e[k]) for k in ("value", "low", "high")))
                    for name, e in data["expected"].items()
                    if name in _ROWS
                ),
                n=n,
                candidates=_count(data["candidates"]),
                points=_count(data["points"]),
                delta=None if data["delta"] is None else _positive(data["delta"]),
                statement=str(data["statement"]),
                router=str(data["router"]),
                content=keys.astype(np.uint64).reshape(n, width),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Cr2Error(
                f"{path}: expected a point as OperatingPoint.write (cr2fast choose --write) wrote "
                f"it, got {shown(f'{type(error).__name__}: {error}')}"
            ) from None

    def check_router(self, sha256: str) -> None:
        """Refuse a router other than the one the point was chosen for."""
        if sha256 != self.router:
            raise Cr2Error(
                f"point: expected the router it was chosen for (sha256 {self.router[:12]}), got "
                f"{sha256[:12]}; choose again after each calibration"
            )

    def check_disjoint(self, asked: npt.NDArray[np.uint64], what: str) -> None:
        """Refuse queries that chose the point, by what they say."""
        shared = np.isin(asked, self.content).any(axis=1)
        if shared.any():
            raise SplitOverlapError(
                f"{what}: expected other queries than those that chose the point, got "
                f"{int(shared.sum())} of them; what it comes to there flatters it"
            )


def _best(wishes: Mapping[str, float]) -> str:
    """What makes a point the best, in words."""
    return "the cheapest" if is_about_accuracy(wishes) else "the most accurate"


def is_about_accuracy(wishes: Mapping[str, float]) -> bool:
    """Whether an accuracy is asked for, so that the cheapest point that has it is the best."""
    return bool({"min_accuracy", "relative_accuracy"} & wishes.keys())


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"a number that is {shown(value)}")
    return float(value)


def _positive(value: object) -> float:
    if (number := _number(value)) <= 0:
        raise ValueError(f"a positive number that is {shown(value)}")
    return number


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"a count that is {shown(value)}")
    return value
