"""τ_inf = tau0 + β_pre·Φ_pre(L_in) + β_dec·Φ_dec(L_out), from requests.

In: :class:`Observations`. Out: :class:`LatencyFit`, of *one request alone*: stalls and bursts have
no weight (`robust.py`); what they do on average is told beside it, as *served*.

The total time gives the coefficients however the text is streamed. TTFT and decode time give them
more sharply where the text comes as it is made; where the two agree within noise and nothing else
speaks against it (`stream.py`), the phases are taken, elsewhere the total. Φ(L) = L, or L + κ·L²:
a curve must predict left-out cells better, be beyond noise, and matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from cr2fast_profiler.errors import FitError
from cr2fast_profiler.fit.estimates import (
    COEFFICIENTS,
    Estimate,
    Forms,
    by_phases,
    by_total,
    predict,
    within_beat,
    without_prefill,
)
from cr2fast_profiler.fit.observations import Floats, Observations, check, check_lengths
from cr2fast_profiler.fit.robust import Regression
from cr2fast_profiler.fit.stream import LATE_WORD, Stream, examine

# A quadratic must predict left-out cells this much better to be taken: noise alone makes it a
# little better half of the time.
QUADRATIC_GAIN = 0.8
# Its κ must be this many half widths off zero, and change some cell's time by this much.
SURE_BEND, LEAST_BEND = 1.25, 0.01
LINEAR: Forms = (False, False)
WORDS = {False: "linear", True: "quadratic"}
Interval = tuple[float, float]


@dataclass(frozen=True)
class Served:
    """The same with every stall and burst in it: plain means.

    Attributes
    ----------
    ratio : float
        Mean time over that of one request alone.
    outliers, slow : float
        Share of requests whose total time no noise of the others explains; and of those the
        slower ones.
    outlier_ratio : float or None
        Their median time over that of one request alone.
    values, intervals : dict
        tau0, β and κ fitted by plain means, and their 95 %.
    """

    ratio: float
    outliers: float
    slow: float
    outlier_ratio: float | None
    values: dict[str, float]
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class LatencyFit:
    """Coefficients of one model.

    Attributes
    ----------
    tau0_s, beta_pre_s, beta_dec_s : float
        s, s a token, s a token.
    kappa_pre, kappa_dec : float
        1/token; 0 for a linear workload.
    phi_pre, phi_dec : str
        "linear" or "quadratic".
    intervals : dict of str to (float, float)
        95 %, of each coefficient.
    estimated_by : str
        "phases" or "total".
    by_phases : dict of str to float, or None
        What TTFT and decode time alone say; None where no time lies between chunks.
    stream : Stream or None
        How the text came; None where only totals are known.
    served : Served
        As served.
    loco_error : float or None
        Mean over the cells of |predicted − typical| / typical of the total time, each cell
        predicted by a fit without it.
    loco_worst : float or None
        The largest of them. None where the rest of some cell determines nothing.
    form_errors : dict of str to float
        Leave-one-cell-out error of every pair of forms tried, "linear/linear" and so on.
    noise : float
        Relative spread of a request's total time within its cell, outliers left out.
    spread : float
        The same with them.
    lack_of_fit : float
        Relative distance of cell means from the curve (RMS), beyond what that noise explains.
    n_requests : int
        n.
    """

    tau0_s: float
    beta_pre_s: float
    beta_dec_s: float
    kappa_pre: float
    kappa_dec: float
    phi_pre: str
    phi_dec: str
    intervals: dict[str, Interval]
    estimated_by: str
    by_phases: dict[str, float] | None
    stream: Stream | None
    served: Served
    loco_error: float | None
    loco_worst: float | None
    form_errors: dict[str, float]
    noise: float
    spread: float
    lack_of_fit: float
    n_requests: int
    notes: tuple[str, ...] = field(default=())

    def predict(self, l_in: Floats, l_out: Floats) -> Floats:
        """τ_inf in s, (n,)."""
        return predict(vars(self), l_in, l_out)


def _way(forms: Forms, phases: bool) -> Callable[[Observations], Estimate]:
    return lambda o: by_phases(o, forms) if phases else by_total(o, forms)[0]


def _left_out(o: Observations, fit: Callable[[Observations], Estimate]) -> Floats:
    """Relative error of each cell's typical time, predicted without it; inf where unfittable."""
    errors = []
    for cell in np.unique(o.cell):
        here = o.cell == cell
        try:
            c = fit(o.take(~here)).values
        except FitError:
            return np.array([np.inf])
        said = np.median(predict(c, o.l_in[here], o.l_out[here]))
        errors.append(abs(float(said / np.median(o.total_s[here])) - 1))
    return np.array(errors)


def _bends(o: Observations, forms: Forms, phases: bool) -> bool:
    """Whether the fit of these forms has curves beyond noise that matter, and nothing negative."""
    try:
        e = _way(forms, phases)(o)
    except FitError:
        return False
    c = e.values
    if not (c["beta_pre_s"] > 0 and c["beta_dec_s"] > 0):
        return False
    for name, slope, lengths, bent in (
        ("kappa_pre", "beta_pre_s", o.l_in, forms[0]),
        ("kappa_dec", "beta_dec_s", o.l_out, forms[1]),
    ):
        low, high = float(lengths.min()), float(lengths.max())
        # Farthest from the chord, in the middle: β·κ·(span/2)².
        bend = c[slope] * c[name] * ((high - low) / 2) ** 2
        if bent and (
            c[name] <= SURE_BEND * e.half_width(name)
            or bend < LEAST_BEND * float(np.median(o.total_s))
        ):
            return False
    return True


def _choose(o: Observations, phases: bool) -> tuple[Forms, dict[Forms, Floats]]:
    """Forms of Φ_pre and Φ_dec, and the left-out errors of the pairs that were compared."""
    many = [len(np.unique(np.round(v, -1))) >= 3 for v in (o.l_in, o.l_out)]
    pairs: list[Forms] = [(True, False), (False, True), (True, True)]
    bent = [
        f for f in pairs if (many[0] or not f[0]) and (many[1] or not f[1]) and _bends(o, f, phases)
    ]
    errors = {f: _left_out(o, _way(f, phases)) for f in (LINEAR, *bent)} if bent else {}
    chosen = LINEAR
    for forms in bent:
        # A richer pair must earn its place against the one chosen so far.
        gain = QUADRATIC_GAIN if sum(forms) > sum(chosen) else 1.0
        if errors[forms].mean() < gain * errors[chosen].mean():
            chosen = forms
    return chosen, errors


def _served(o: Observations, e: Estimate, forms: Forms, weight: Floats) -> Served:
    ratio = o.total_s / predict(e.values, o.l_in, o.l_out)
    out = weight <= 0
    plain, _ = by_total(o, forms, plain=True)
    return Served(
        ratio=float(ratio.mean()),
        outliers=float(out.mean()),
        slow=float((out & (ratio > 1)).mean()),
        outlier_ratio=float(np.median(ratio[out])) if out.any() else None,
        values=plain.values,
        intervals=_intervals(plain),
    )


def _intervals(e: Estimate) -> dict[str, Interval]:
    widths = {k: e.half_width(k) for k in COEFFICIENTS}
    return {k: (e.values[k] - w, e.values[k] + w) for k, w in widths.items()}


def _within(o: Observations, said: Floats, used: np.ndarray) -> float:
    """Relative spread of a request's total time within its cell."""
    ratio = (o.total_s / said)[used]
    cell = o.cell[used]
    squares, degrees = 0.0, 0
    for c in np.unique(cell):
        r = ratio[cell == c]
        squares += float(((r - r.mean()) ** 2).sum())
        degrees += len(r) - 1
    return float(np.sqrt(squares / degrees)) if degrees else 0.0


def _pick(o: Observations) -> tuple[Estimate, Forms, dict[Forms, Floats], Stream, Estimate | None]:
    """The estimate to take, by phases where nothing speaks against them."""
    try:
        forms, errors = _choose(o, True)
        phases = by_phases(o, forms)
    except FitError:
        phases = None
    if phases is not None:
        total, _ = by_total(o, forms)
        stream = examine(o, forms, total, phases)
        if stream.sound:
            return phases, forms, errors, stream, phases
    forms, errors = _choose(o, False)
    total, r = by_total(o, forms)
    stream = examine(o, forms, total, phases)
    if phases is not None and stream.sound:
        # Sound with these forms, and not with those that the phases alone would choose.
        phases = by_phases(o, forms)
        return phases, forms, errors, stream, phases
    if stream.beat_s:
        # Rounding up makes curves of its own, which are none of the model's.
        forms, errors = LINEAR, {}
        total, r = by_total(o, forms)
        total = within_beat(total, r, o, forms, stream.beat_s)
    return total, forms, errors, stream, phases


def fit_latency(o: Observations, left_out: bool = True) -> LatencyFit:
    """Fit one model's latency.

    Parameters
    ----------
    o : Observations
        Requests of at least three cells.
    left_out : bool
        Also predict each cell from the others.

    Raises
    ------
    FitError
        Too few rows, a singular grid, or coefficients that no model has.
    """
    check(o)
    if float(np.median(o.tail_s)) <= LATE_WORD * by_total(o, LINEAR)[0].values["beta_dec_s"]:
        # Tokens without text end many an answer (an end token, stripped tags): they are part of it.
        o = o.ended_at_word()
    e, forms, errors, stream, phases = _pick(o)
    taken = "phases" if e is phases else "total"
    if left_out and forms not in errors:
        errors[forms] = _left_out(o, _way(forms, taken == "phases"))
    return _finished(o, e, forms, errors, stream, phases, taken)


def fit_totals(o: Observations) -> LatencyFit:
    """Fit calls of which only the total time is known, as ``decode_s`` beside a TTFT of 0.

    Φ is linear: lengths that nobody chose show no curve.

    Parameters
    ----------
    o : Observations
        Calls; their cells are bins of lengths.

    Raises
    ------
    FitError
        As of :func:`fit_latency`.
    """
    check_lengths(o)
    e = by_total(o, LINEAR)[0]
    way, notes = _way(LINEAR, False), []
    value, width = e.values["beta_pre_s"], e.half_width("beta_pre_s")
    if value <= 0:
        notes.append(
            f"β_pre came out at {value:.2g} s per token (± {width:.2g}): long prompts were not "
            "slower here, for reasons outside the log. It is written as 0, so longer prompts are "
            "predicted too quick; `model` measures it"
        )
        e, way = without_prefill(o), without_prefill
    fit = _finished(o, e, LINEAR, {LINEAR: _left_out(o, way)}, None, None, "total")
    if notes:
        fit = replace(fit, intervals=fit.intervals | {"beta_pre_s": (0.0, width)})
    return replace(fit, notes=(*notes, *(n for n in fit.notes if not n.startswith("beta_pre_s"))))


def _finished(
    o: Observations,
    e: Estimate,
    forms: Forms,
    errors: dict[Forms, Floats],
    stream: Stream | None,
    phases: Estimate | None,
    taken: str,
) -> LatencyFit:
    c = dict(e.values)
    for name in ("beta_pre_s", "beta_dec_s"):
        if c[name] < 0 or (c[name] == 0 and stream is not None):
            raise FitError(
                f"{name} = {c[name]:.3g}: time does not grow with tokens here. The noise drowns "
                "it, or a cache answers: use longer cells or more rounds"
            )
    intervals = _intervals(e)
    said = predict(c, o.l_in, o.l_out)
    total: Regression = by_total(o, forms)[1]
    left_out = errors.get(forms, np.array([np.inf]))
    whole = bool(np.isfinite(left_out).all())
    served = _served(o, e, forms, total.weight)
    notes = _notes(c, intervals, stream, taken)
    if c["tau0_s"] < 0:
        c["tau0_s"], intervals["tau0_s"] = 0.0, (0.0, max(intervals["tau0_s"][1], 0.0))
    return LatencyFit(
        **c,
        phi_pre=WORDS[forms[0]],
        phi_dec=WORDS[forms[1]],
        intervals=intervals,
        estimated_by=taken,
        by_phases=phases.values if phases else None,
        stream=stream,
        served=served,
        loco_error=float(left_out.mean()) if whole else None,
        loco_worst=float(left_out.max()) if whole else None,
        form_errors={
            f"{WORDS[a]}/{WORDS[b]}": float(x.mean())
            for (a, b), x in errors.items()
            if np.isfinite(x).all()
        },
        noise=_within(o, said, e.weight > 0),
        spread=_within(o, said, np.ones(len(o), bool)),
        lack_of_fit=total.lack_of_fit,
        n_requests=len(o),
        notes=tuple(notes),
    )


def _notes(
    c: dict[str, float], intervals: dict[str, Interval], stream: Stream | None, taken: str
) -> list[str]:
    notes = []
    if stream and stream.causes:
        told = "; ".join(stream.causes)
        if taken == "total":
            told += (
                ". Coefficients are those of the total time, which holding text back does not move"
            )
        notes.append(told)
    if c["tau0_s"] < 0:
        low, high = intervals["tau0_s"]
        notes.append(
            f"tau0 came out at {c['tau0_s']:.3g} s ({low:.3g} to {high:.3g}) and is written as 0: "
            "the first token costs less than a later one here, so short answers are predicted too "
            "slow by that much"
        )
    notes += [
        f"{name}: its interval reaches zero; use longer cells or more rounds"
        for name in ("beta_pre_s", "beta_dec_s")
        if intervals[name][0] <= 0
    ]
    return notes
