"""tau0, β_pre and β_dec of the same requests, two ways.

In: :class:`Observations` and the forms of Φ. Out: :class:`Estimate`.

- By the total, which does not depend on how the text is streamed:

      t_last − t_sent = tau0 + β_pre·Φ_pre(L_in) + β_dec·Φ_dec(L_out)

- By phases, sharper, and right only where text comes as it is made:

      t_last − t_first = β_dec·(Φ_dec(L_out) − Φ_dec(k₁))
      t_first − t_sent = a + β_pre·Φ_pre(L_in) + β_dec·(Φ_dec(k₁) − Φ_dec(1))

  The TTFT contains token 1, so tau0 = a − β_dec·Φ_dec(1).

Φ(L) = L, or L + κ·L².
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from cr2fast_profiler.errors import FitError
from cr2fast_profiler.fit.observations import Floats, Observations
from cr2fast_profiler.fit.robust import Regression, half_width, solve

Forms = tuple[bool, bool]
"""Whether Φ_pre and Φ_dec are quadratic."""
COEFFICIENTS = ("tau0_s", "beta_pre_s", "beta_dec_s", "kappa_pre", "kappa_dec")


@dataclass(frozen=True, eq=False)
class Estimate:
    """Coefficients, and what each row and cell does to them.

    Attributes
    ----------
    values : dict of str to float
        Of COEFFICIENTS; κ is 0 where Φ is linear.
    influence, misfit : dict of str to ndarray of float64
        (n,) and (J,), as of :class:`Regression`.
    degrees : (float, float)
        Of freedom, of the two.
    weight : ndarray of float64, (n,)
        The least that a regression gives each row.
    """

    values: dict[str, float]
    influence: dict[str, Floats]
    misfit: dict[str, Floats]
    degrees: tuple[float, float]
    weight: Floats

    def half_width(self, name: str) -> float:
        """Half of the 95 % interval of a coefficient."""
        return half_width(self.influence[name], self.misfit[name], self.degrees)

    def disagreement(self, other: Estimate, name: str) -> tuple[float, float]:
        """(other's value less this one's, half of the 95 % interval of that)."""
        degrees = tuple(min(a, b) for a, b in zip(self.degrees, other.degrees, strict=True))
        width = half_width(
            other.influence[name] - self.influence[name],
            other.misfit[name] - self.misfit[name],
            (degrees[0], degrees[1]),
        )
        return other.values[name] - self.values[name], width


def within_beat(
    e: Estimate, r: Regression, o: Observations, forms: Forms, beat_s: float
) -> Estimate:
    """The estimate `e` of regression `r`, where every time is rounded up to a beat.

    A cell's requests may all be rounded alike, so their mean is off by any part of a beat.
    """
    pulls = np.zeros((int(o.cell.max()) + 1, len(r.coefficients)))
    np.add.at(pulls, o.cell, r.gradient.T)
    rounded = _spread(r.coefficients, pulls * beat_s / math.sqrt(12), forms)
    return replace(e, misfit={k: np.concatenate([v, rounded[k]]) for k, v in e.misfit.items()})


def phi_columns(low: Floats | float, high: Floats, quadratic: bool) -> Floats:
    """Φ(high) − Φ(low) as columns, (n, 1 or 2)."""
    linear = high - low
    return np.stack([linear, high**2 - low**2], 1) if quadratic else linear[:, None]


def total_columns(o: Observations, forms: Forms) -> Floats:
    """Columns of the total, (n, p)."""
    ones = np.ones((len(o), 1))
    return np.concatenate(
        [ones, phi_columns(0.0, o.l_in, forms[0]), phi_columns(0.0, o.l_out, forms[1])], 1
    )


def _named(b: Floats, forms: Forms) -> dict[str, float]:
    """Coefficients of the total's columns by name."""
    values = dict.fromkeys(COEFFICIENTS, 0.0)
    at = 2 + forms[0]
    values |= {"tau0_s": float(b[0]), "beta_pre_s": float(b[1]), "beta_dec_s": float(b[at])}
    if forms[0]:
        values["kappa_pre"] = float(b[2] / b[1]) if b[1] else math.nan
    if forms[1]:
        values["kappa_dec"] = float(b[at + 1] / b[at]) if b[at] else math.nan
    return values


def _spread(b: Floats, columns: Floats, forms: Forms) -> dict[str, Floats]:
    """What does something to b, (m, p), as what it does to the named coefficients, each (m,)."""
    at = 2 + forms[0]
    none = np.zeros(len(columns))
    found = {"tau0_s": columns[:, 0], "beta_pre_s": columns[:, 1], "beta_dec_s": columns[:, at]}
    for name, slope, bent in (("kappa_pre", 1, forms[0]), ("kappa_dec", at, forms[1])):
        if bent:
            slopes = b[slope] if b[slope] else math.nan
            kappa = b[slope + 1] / slopes
            found[name] = (columns[:, slope + 1] - kappa * columns[:, slope]) / slopes
        else:
            found[name] = none
    return found


def _estimate(
    b: Floats,
    influence: Floats,
    misfit: Floats,
    degrees: tuple[float, float],
    weight: Floats,
    forms: Forms,
) -> Estimate:
    return Estimate(
        _named(b, forms),
        _spread(b, influence, forms),
        _spread(b, misfit, forms),
        degrees,
        weight,
    )


def by_total(o: Observations, forms: Forms, plain: bool = False) -> tuple[Estimate, Regression]:
    """From the total times.

    Parameters
    ----------
    o : Observations
        Requests.
    forms : (bool, bool)
        Whether Φ_pre and Φ_dec are quadratic.
    plain : bool
        The mean as served, outliers and all.

    Raises
    ------
    FitError
        The rows do not determine the coefficients.
    """
    r = solve(total_columns(o, forms), o.total_s, o.cell, "total time", plain)
    found = _estimate(r.coefficients, r.influence, r.misfit, r.degrees, r.weight, forms)
    return found, r


def without_prefill(o: Observations) -> Estimate:
    """From the total times with β_pre = 0 and linear Φ; errors as of :func:`by_total`."""
    x = np.stack([np.ones(len(o)), o.l_out], 1)
    r = solve(x, o.total_s, o.cell, "total time")

    def with_none(columns: Floats) -> Floats:
        return np.insert(columns, 1, 0.0, axis=-1)

    return _estimate(
        with_none(r.coefficients),
        with_none(r.influence),
        with_none(r.misfit),
        r.degrees,
        r.weight,
        (False, False),
    )


def _decoded(o: Observations, forms: Forms) -> tuple[np.ndarray, Floats]:
    many = o.l_out > o.first_tokens
    if not many.any():
        raise FitError("decode: every answer came in one chunk, so no time lies between tokens")
    return many, phi_columns(o.first_tokens[many], o.l_out[many], forms[1])


def by_phases(o: Observations, forms: Forms) -> Estimate:
    """From TTFT and decode time; parameters and errors as of :func:`by_total`."""
    many, x = _decoded(o, forms)
    d = solve(x, o.decode_s[many], o.cell[many], "decode")
    x = np.concatenate([np.ones((len(o), 1)), phi_columns(0.0, o.l_in, forms[0])], 1)
    after_one = phi_columns(1.0, o.first_tokens, forms[1])
    p = solve(x, o.ttft_s - after_one @ d.coefficients, o.cell, "prefill")
    decoded = np.zeros((len(o), len(d.coefficients)))
    decoded[many] = d.influence
    misfit_d = np.zeros((len(p.misfit), len(d.coefficients)))
    misfit_d[: len(d.misfit)] = d.misfit
    # What β_dec is off by, the TTFT's later tokens take along; and tau0 = a − β_dec·Φ(1).
    through = -p.gradient @ after_one
    tau0 = np.zeros((x.shape[1], len(d.coefficients)))
    tau0[0] = 1.0

    def joined(pre: Floats, dec: Floats) -> Floats:
        return np.concatenate([pre + dec @ (through - tau0).T, dec], 1)

    b = np.concatenate([p.coefficients, d.coefficients])
    b[0] -= d.coefficients.sum()
    weight = p.weight.copy()
    weight[many] = np.minimum(weight[many], d.weight)
    return _estimate(
        b,
        joined(p.influence, decoded),
        joined(p.misfit, misfit_d),
        (min(p.degrees[0], d.degrees[0]), min(p.degrees[1], d.degrees[1])),
        weight,
        forms,
    )


def predict(c: dict[str, float], l_in: Floats, l_out: Floats) -> Floats:
    """τ_inf in s, (n,)."""
    pre = l_in + c["kappa_pre"] * l_in**2
    dec = l_out + c["kappa_dec"] * l_out**2
    return np.asarray(c["tau0_s"] + c["beta_pre_s"] * pre + c["beta_dec_s"] * dec)
