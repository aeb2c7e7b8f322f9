"""What a replay found.

In: figures of the logged decisions, and of those that would have been. Out: :class:`Replay`, in
words and in JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cr2fast.calibration import threshold_word
from cr2fast.evaluation.offpolicy import Estimate


@dataclass(frozen=True)
class Figures:
    """What some decisions come to, as predicted.

    Attributes
    ----------
    n : int
        Requests.
    local_rate : float
        Fraction kept on the device.
    latency_s, latency_p50_s, latency_p95_s : float or None
        Seconds per request by the cost table and predicted lengths; None without times in the
        table.
    energy_j, usd : float or None
        Joules and dollars per request, likewise.
    cost : float
        Mean normalised cost.
    accuracy : float
        Mean probability of a right answer, as the teacher predicts it.
    false_acceptances : int
        Requests kept local although the teacher prefers an edge model.
    risk, risk_low, risk_high : float
        Their fraction, with its exact 95 % binomial interval.
    needless_deferrals : float
        Fraction deferred although the teacher prefers the local model.
    share : dict of str to float
        Fraction of requests per model.
    """

    n: int
    local_rate: float
    latency_s: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    energy_j: float | None
    usd: float | None
    cost: float
    accuracy: float
    false_acceptances: int
    risk: float
    risk_low: float
    risk_high: float
    needless_deferrals: float
    share: dict[str, float]


@dataclass(frozen=True)
class Measured:
    """What the log measured of answered requests; None where it measured nothing.

    Attributes
    ----------
    n : int
        Answered requests.
    latency_s, latency_p50_s, latency_p95_s, ttft_s : float or None
        Seconds from arrival to the end, and on average to the first content.
    n_output_tokens : float or None
        Mean, as the models counted.
    score : float or None
        Mean grade of those that were graded.
    graded : int
    """

    n: int
    latency_s: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    ttft_s: float | None
    n_output_tokens: float | None
    score: float | None
    graded: int


@dataclass(frozen=True)
class Replay:
    """Another point's decisions on logged requests.

    Attributes
    ----------
    lam, alpha, threshold : float
        The point that was replayed.
    would : Figures
        What it would have done.
    logged : Figures
        The logged decisions, predicted in the same way; risk at `lam`, by the same teacher.
    measured : Measured
        What the log measured of the logged decisions.
    changed : float
        Fraction of requests that would have gone to the other place.
    value : Estimate or None
        The mean score that it would have met, from grades of answers and of shadows, with a 95 %
        interval (:func:`cr2fast.traffic.value.value_of`): observed, not predicted.
    value_note : str
        Why there is none.
    left_out : dict of str to int
        Requests of the log that are in none of these figures, by why.
    """

    lam: float
    alpha: float
    threshold: float
    would: Figures
    logged: Figures
    measured: Measured
    changed: float
    value: Estimate | None
    value_note: str
    left_out: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"threshold": threshold_word(self.threshold)}

    def __str__(self) -> str:
        return table([self])


def table(replays: Sequence[Replay]) -> str:
    """Replays of one log, a line each below what was logged."""
    head = ("lam", "alpha", "local", "latency s", "p95 s", "J", "usd", "accuracy", "risk", "95 %")
    logged, measured = replays[0].logged, replays[0].measured
    rows = [head, _row(("logged", ""), logged)]
    rows += [_row((f"{r.lam:g}", f"{r.alpha:g}"), r.would) for r in replays]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    text = "\n".join(
        "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows
    )
    said = [
        f"{replays[0].would.n} requests. Latency, energy and dollars are predicted by the cost "
        f"table and predicted lengths, accuracy by the teacher; risk is the fraction kept local "
        f"although the teacher prefers an edge model (that of the logged decisions at the first "
        f"lam)."
    ]
    if measured.latency_s is not None:
        said.append(
            f"Measured: {measured.n} answered requests took {measured.latency_s:.3g} s on average."
        )
    if measured.score is not None:
        said.append(f"{measured.graded} were graded, {measured.score:.3f} on average.")
        for r in replays:
            told = str(r.value) if r.value is not None else f"unknown: {r.value_note}"
            said.append(f"Score at lam={r.lam:g}, alpha={r.alpha:g}: {told}.")
    if left := replays[0].left_out:
        said.append("Left out: " + ", ".join(f"{n} {why}" for why, n in left.items()) + ".")
    return text + "\n" + " ".join(said)


def _row(point: tuple[str, str], f: Figures) -> tuple[str, ...]:
    def cell(value: float | None, form: str = ".3g") -> str:
        return "-" if value is None else format(value, form)

    return (
        *point,
        cell(f.local_rate, ".1%"),
        cell(f.latency_s),
        cell(f.latency_p95_s),
        cell(f.energy_j),
        cell(f.usd),
        cell(f.accuracy, ".3f"),
        cell(f.risk, ".2%"),
        f"{f.risk_low:.2%}..{f.risk_high:.2%}",
    )
