"""τ_inf = tau0 + β_pre·Φ_pre(L_in) + β_dec·Φ_dec(L_out), from requests.

In: :class:`Observations`. Out: :class:`LatencyFit`. Two regressions, each weighted by the inverse
square of its own first fit, since the noise of a duration grows with the duration:

    t_last − t_first = β_dec·(Φ_dec(L_out) − Φ_dec(k₁))
    t_first − t_sent = a + β_pre·Φ_pre(L_in) + β_dec·(Φ_dec(k₁) − Φ_dec(1))

The TTFT contains token 1, so tau0 = a − β_dec·Φ_dec(1). Φ(L) = L, or L + κ·L², whichever predicts
left-out cells better. Intervals: bootstrap over requests, 95 %, percentiles widened by √(n/(n−p)).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cr2fast_profiler.errors import FitError
from cr2fast_profiler.fit.observations import Floats, Observations

RESAMPLES = 2000
LEVEL = 0.95
# A quadratic must predict left-out cells this much better to be taken: noise alone makes it a
# little better half of the time.
QUADRATIC_GAIN = 0.8
COEFFICIENTS = ("tau0_s", "beta_pre_s", "beta_dec_s", "kappa_pre", "kappa_dec")
Interval = tuple[float, float]


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
    loco_error : float or None
        Mean over the cells of |predicted − mean| / mean of the total time, each cell predicted
        by a fit without it.
    loco_worst : float or None
        The largest of them. None where the rest of some cell determines nothing.
    form_errors : dict of str to float
        Leave-one-cell-out error of every pair of forms tried, "linear/linear" and so on.
    noise : float
        Relative spread of a request's total time within its cell.
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
    loco_error: float | None
    loco_worst: float | None
    form_errors: dict[str, float]
    noise: float
    lack_of_fit: float
    n_requests: int
    notes: tuple[str, ...] = field(default=())

    def predict(self, l_in: Floats, l_out: Floats) -> Floats:
        """τ_inf in s, (n,)."""
        return _predict(vars(self), l_in, l_out)


def _predict(c: dict[str, float], l_in: Floats, l_out: Floats) -> Floats:
    pre = l_in + c["kappa_pre"] * l_in**2
    dec = l_out + c["kappa_dec"] * l_out**2
    return np.asarray(c["tau0_s"] + c["beta_pre_s"] * pre + c["beta_dec_s"] * dec)


def _columns(low: Floats | float, high: Floats, quadratic: bool) -> Floats:
    linear = high - low
    return np.stack([linear, high**2 - low**2], 1) if quadratic else linear[:, None]


def _solve(x: Floats, y: Floats, counts: Floats, what: str) -> Floats:
    """Weighted least squares for each row of `counts`, (b, n) → (b, p); y is (n,) or (b, n)."""
    w = _weights(x, y if y.ndim == 1 else y[0])
    # Columns of very different size (1, L, L²) are scaled, or the normal equations lose digits.
    scale = np.abs(x).max(0)
    if not (scale > 0).all():
        raise FitError(f"{what}: the rows do not vary; the grid is singular")
    z = x / scale
    gram = np.einsum("bn,ni,nj->bij", counts * w, z, z, optimize=True)
    right = np.einsum(
        "bn,ni,bn->bi", counts * w, z, np.broadcast_to(y, counts.shape), optimize=True
    )
    if np.linalg.cond(gram[0]) > 1e12:
        raise FitError(f"{what}: the grid is singular: more distinct lengths are needed")
    # A resample that drew too few distinct cells has no unique solution: pinv takes the least.
    return np.asarray((np.linalg.pinv(gram) @ right[..., None])[..., 0] / scale)


def _weights(x: Floats, y: Floats) -> Floats:
    first = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    floor = max(0.05 * float(np.abs(y).mean()), 1e-12)
    return np.asarray(1.0 / np.maximum(first, floor) ** 2)


def _coefficients(o: Observations, forms: tuple[bool, bool], counts: Floats) -> dict[str, Floats]:
    """Every coefficient for every row of `counts`, each (b,)."""
    many = o.l_out > o.first_tokens
    if not many.any():
        raise FitError("decode: every answer came in one chunk, so no time lies between tokens")
    d = _solve(
        _columns(o.first_tokens[many], o.l_out[many], forms[1]),
        o.decode_s[many],
        counts[:, many],
        "decode",
    )
    curvature = d[:, 1] if forms[1] else np.zeros(len(d))
    after_one = np.outer(d[:, 0], o.first_tokens - 1) + np.outer(curvature, o.first_tokens**2 - 1)
    x = np.concatenate([np.ones((len(o), 1)), _columns(0.0, o.l_in, forms[0])], 1)
    p = _solve(x, o.ttft_s - after_one, counts, "prefill")
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "tau0_s": p[:, 0] - d[:, 0] - curvature,
            "beta_pre_s": p[:, 1],
            "beta_dec_s": d[:, 0],
            "kappa_pre": p[:, 2] / p[:, 1] if forms[0] else np.zeros(len(p)),
            "kappa_dec": curvature / d[:, 0],
        }


def _point(o: Observations, forms: tuple[bool, bool]) -> dict[str, float]:
    return {k: float(v[0]) for k, v in _coefficients(o, forms, np.ones((1, len(o)))).items()}


def _left_out(o: Observations, forms: tuple[bool, bool]) -> Floats:
    """Relative error of each cell's mean total time, predicted without it; inf where unfittable."""
    errors = []
    for cell in np.unique(o.cell):
        here = o.cell == cell
        try:
            c = _point(o.take(~here), forms)
        except FitError:
            return np.array([np.inf])
        said = _predict(c, o.l_in[here], o.l_out[here]).mean()
        errors.append(abs(said / o.total_s[here].mean() - 1))
    return np.array(errors)


def _choose(o: Observations) -> tuple[tuple[bool, bool], dict[str, float]]:
    """Forms of Φ_pre and Φ_dec, and the left-out error of every pair."""
    many = [len(np.unique(np.round(v, -1))) >= 3 for v in (o.l_in, o.l_out)]
    errors: dict[tuple[bool, bool], float] = {}
    for pre in (False, True):
        for dec in (False, True):
            if (pre and not many[0]) or (dec and not many[1]):
                continue
            c = _point(o, (pre, dec))
            rising = c["beta_pre_s"] > 0 and c["beta_dec_s"] > 0
            if rising and c["kappa_pre"] >= 0 and c["kappa_dec"] >= 0:
                errors[pre, dec] = float(_left_out(o, (pre, dec)).mean())
    chosen = (False, False)
    if chosen in errors:
        # Fewest quadratics first: a richer pair must earn its place against the one chosen so far.
        for forms in sorted(errors, key=sum):
            gain = QUADRATIC_GAIN if sum(forms) > sum(chosen) else 1.0
            if errors[forms] < gain * errors[chosen]:
                chosen = forms
    elif errors:
        chosen = min(errors, key=lambda f: errors[f])
    word = {False: "linear", True: "quadratic"}
    return chosen, {f"{word[a]}/{word[b]}": e for (a, b), e in errors.items()}


def _spread(o: Observations, predicted: Floats) -> tuple[float, float]:
    """Noise within cells, and lack of fit of the cells' means beyond it; both relative."""
    residual = o.total_s / predicted - 1
    within, between = [], []
    for cell in np.unique(o.cell):
        r = residual[o.cell == cell]
        if len(r) > 1:
            within.append((r.var(ddof=1), len(r)))
        between.append((r.mean() ** 2, len(r)))
    noise = np.average([v for v, _ in within], weights=[n for _, n in within]) if within else 0.0
    excess = np.mean([m - noise / n for m, n in between])
    return float(np.sqrt(noise)), float(np.sqrt(max(excess, 0.0)))


def fit_latency(o: Observations, seed: int = 0, resamples: int = RESAMPLES) -> LatencyFit:
    """Fit one model's latency.

    Parameters
    ----------
    o : Observations
        Requests of at least three cells.
    seed : int
        Of the bootstrap.
    resamples : int
        Of the bootstrap.

    Raises
    ------
    FitError
        Too few rows, a singular grid, or coefficients that no model has.
    """
    if len(np.unique(o.cell)) < 3 or len(o) < 6:
        raise FitError(
            f"{len(o)} answered requests in {len(np.unique(o.cell))} cells: at least 6 in 3 cells "
            "are needed"
        )
    values = np.concatenate([o.ttft_s, o.decode_s])
    if not np.isfinite(values).all() or (o.ttft_s <= 0).any() or (o.decode_s < 0).any():
        raise FitError("a request has no positive, finite time; was the round trip overestimated?")
    forms, errors = _choose(o)
    c = _point(o, forms)
    for name in ("beta_pre_s", "beta_dec_s"):
        if c[name] <= 0:
            raise FitError(
                f"{name} = {c[name]:.3g}: time does not grow with tokens here. The noise drowns "
                "it, or a cache answers: use longer cells or more rounds"
            )
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(o), np.full(len(o), 1 / len(o)), size=resamples).astype(float)
    drawn = _coefficients(o, forms, counts)
    widen = np.sqrt(len(o) / max(len(o) - 2 - sum(forms), 1))
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    intervals = {}
    for name in COEFFICIENTS:
        low, high = c[name] + widen * (np.quantile(drawn[name], tails) - c[name])
        intervals[name] = (float(low), float(high))
    left_out = _left_out(o, forms)
    noise, lack = _spread(o, _predict(c, o.l_in, o.l_out))
    notes = []
    if c["tau0_s"] < 0:
        low, high = intervals["tau0_s"]
        notes.append(
            f"tau0 came out at {c['tau0_s']:.3g} s ({low:.3g} to {high:.3g}) and is written as 0: "
            "the first token costs less than a later one here, so short answers are predicted too "
            "slow by that much"
        )
        c["tau0_s"], intervals["tau0_s"] = 0.0, (0.0, max(high, 0.0))
    notes += [
        f"{name}: its interval reaches zero; use longer cells or more rounds"
        for name in ("beta_pre_s", "beta_dec_s")
        if intervals[name][0] <= 0
    ]
    word = {False: "linear", True: "quadratic"}
    return LatencyFit(
        **c,
        phi_pre=word[forms[0]],
        phi_dec=word[forms[1]],
        intervals=intervals,
        loco_error=float(left_out.mean()) if np.isfinite(left_out).all() else None,
        loco_worst=float(left_out.max()) if np.isfinite(left_out).all() else None,
        form_errors={k: v for k, v in errors.items() if np.isfinite(v)},
        noise=noise,
        lack_of_fit=lack,
        n_requests=len(o),
        notes=tuple(notes),
    )
