"""Slow, plain-NumPy twins of every Rust kernel: the definition, not the implementation.

Double precision throughout, one loop per formula; equation numbers are those of arXiv 2605.12001.
"""

from __future__ import annotations

import math
from fractions import Fraction
from math import erf

import numpy as np

_erf = np.vectorize(erf, otypes=[float])


def gelu(x):
    return 0.5 * x * (1 + _erf(np.asarray(x, float) / np.sqrt(2)))


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, float)))


def layer_norm(x, gain, bias):
    x = np.asarray(x, float)
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * gain + bias


def psi(lam):
    """Features of lambda (49)."""
    log = np.log(lam)
    f = np.array([0.5, 1, 2, 4])
    return np.concatenate([[log], np.sin(2 * np.pi * f * log), np.cos(2 * np.pi * f * log)])


def gate_links(w, rates_up, rates_down, rtt):
    """z (N, 3) of link states, for a gate that sees the link."""
    logs = np.log([np.maximum(rtt, 1e-6), rates_up, rates_down]).T
    z = (logs - w["gate.link.shift"].astype(float)) * w["gate.link.scale"].astype(float)
    return np.clip(z, -3, 3)


def gate_margins(w, x, lams, states=None):
    """Margins (L, N) of the gate (50-52); w maps artifact tensor names to arrays.

    `states`: rates up and down and round trips (N,), for a gate that sees the link.
    """
    hidden = layer_norm(x, w["gate.ln.weight"], w["gate.ln.bias"]) @ w["gate.w1"].T.astype(float)
    hidden = hidden + w["gate.b1"]
    if states is not None:
        hidden = hidden + gate_links(w, *states) @ w["gate.link.w"].astype(float)
    out = []
    for lam in lams:
        film = w["gate.film.weight"].astype(float) @ psi(lam) + w["gate.film.bias"]
        gamma, beta = np.split(film, 2)
        out.append(gelu(gamma * hidden + beta) @ w["gate.w2"].astype(float) + w["gate.b2"][0])
    return np.array(out)


def teacher_accuracies(w, x):
    """p (N, M) of the heads (36-39)."""
    out = []
    for m in range(len(w["teacher.b2"])):
        z = layer_norm(x, w["teacher.ln.weight"][m], w["teacher.ln.bias"][m])
        hidden = gelu(z @ w["teacher.w1"][m].T.astype(float) + w["teacher.b1"][m])
        out.append(sigmoid(hidden @ w["teacher.w2"][m].astype(float) + w["teacher.b2"][m]))
    heads = np.stack(out, axis=1)
    if "smoother.centres" not in w:
        return heads
    names = ("centres", "coefficients", "mean")
    scale, share = w["smoother.scalars"].astype(float)
    return (1 - share) * heads + share * smoother(x, *(w[f"smoother.{n}"] for n in names), scale)


def lengths(w, x, n_input):
    """Expected output tokens (N, M) of the length heads."""
    slope, offset, smear, longest = w["length.scalars"].T
    x = x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    log = x @ w["length.weight"].T.astype(float)
    log = log + slope * np.log1p(n_input)[:, None] + offset + smear
    return np.clip(np.exp(log) - 1, 0, longest)


def static_embedding(w, tokens):
    """Unit vector (d,) of a static encoder: the sum of its tokens' rows, each with its scale."""
    total = sum(w["scales"][t].astype(float) * w["vectors"][t].astype(float) for t in tokens)
    return total / np.linalg.norm(total)


def ridge_rows(vectors, weights, tokens, targets, ridge):
    """Token vectors nearest to V0 whose weighted means come near the targets: normal equations."""
    a = np.zeros((len(tokens), len(vectors)))
    for row, ids in zip(a, tokens, strict=True):
        np.add.at(row, ids, weights[ids])
        row /= row.sum()
    means = a @ vectors
    scale = (means * targets).sum() / (means * means).sum()
    rho = ridge * (a * a).sum() / len(a)
    left = a.T @ a + rho * np.eye(len(vectors))
    return np.linalg.solve(left, a.T @ targets + rho * scale * vectors)


def _mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniforms(seed, count):
    """SplitMix64 read at counters 0..count-1, as numbers in [0, 1)."""
    with np.errstate(over="ignore"):
        start = _mix(np.uint64(seed) ^ np.uint64(0x6372326661737421))
        i = np.arange(1, count + 1, dtype=np.uint64)
        z = _mix(start + i * np.uint64(0x9E3779B97F4A7C15))
    return (z >> np.uint64(11)).astype(float) / 2**53


def link_states(link, n, seed):
    """Rates (bit/s) of sampled states (6-9): (n,) up, (n,) down."""
    u = uniforms(seed, 3 * n).reshape(n, 3)
    low, high = link["distance_m"]["low"], link["distance_m"]["high"]
    d = low + (high - low) * u[:, 0]
    fading = np.maximum(-link["fading"]["mean"] * np.log1p(-u[:, 1:]), 1e-12)
    gain = (
        10 ** (link["reference_gain_db"] / 10) * fading * d[:, None] ** -link["path_loss_exponent"]
    )
    n0 = 10 ** ((link["noise_psd_dbm_hz"] - 30) / 10)
    rates = []
    for k, (b, p) in enumerate(
        [
            (link["bandwidth_ul_hz"], link["tx_power_ue_w"]),
            (link["bandwidth_dl_hz"], link["tx_power_ap_w"]),
        ]
    ):
        rates.append(b * np.log2(1 + p * gain[:, k] / (b * n0)))
    return rates[0], rates[1]


def empirical_states(link, n, seed):
    """Samples (rate_ul, rate_dl, rtt), (n,) each, drawn uniformly with replacement."""
    fields = ("rate_ul_bps", "rate_dl_bps", "rtt_s")
    samples = np.array([[float(s[f]) for f in fields] for s in link["samples"]])
    rows = np.floor(uniforms(seed, n) * len(samples)).astype(int)
    return tuple(samples[rows].T)


def work(form, tokens, kappa):
    return tokens + (kappa * tokens**2 if form == "quadratic" else 0)


def latency_energy(table, n_in, n_out, rate_ul, rate_dl, rtt):
    """t (N, M) in s and e (N, M) in J (10-16); `table` is the parsed JSON.

    A number that is null makes what needs it NaN.
    """
    link, ue = table["link"], table.get("ue", {})
    some = {k: np.nan if ue.get(k) is None else ue[k] for k in ("p_tx_w", "p_rx_w", "p_idle_w")}
    t, e = [], []
    for k, m in enumerate(table["models"]):
        tau0, pre, dec, watts = (
            np.nan if m.get(name) is None else m[name]
            for name in ("tau0_s", "beta_pre_s", "beta_dec_s", "p_active_w")
        )
        inference = (
            tau0
            + pre * work(m.get("phi_pre", "linear"), n_in, m.get("kappa_pre", 0))
            + dec * work(m.get("phi_dec", "linear"), n_out[:, k], m.get("kappa_dec", 0))
        )
        if m["tier"] == "device":
            t.append(inference)
            e.append(watts * inference)
            continue
        if link["kind"] == "none":
            t.append(inference)
            e.append(some["p_idle_w"] * inference + watts * inference)
            continue
        up = n_in * link["bits_per_input_token"] / rate_ul
        down = n_out[:, k] * link["bits_per_output_token"] / rate_dl
        t.append(up + rtt + inference + down)
        e.append(
            some["p_tx_w"] * up
            + some["p_rx_w"] * down
            + some["p_idle_w"] * (rtt + inference)
            + watts * inference
        )
    return np.stack(t, 1), np.stack(e, 1)


def usd(table, n_in, n_out):
    """d (N, M) in dollars (ours)."""
    return np.stack(
        [
            n_in * m["usd_per_input_token"]
            + n_out[:, k] * m["usd_per_output_token"]
            + m.get("usd_per_request", 0)
            for k, m in enumerate(table["models"])
        ],
        axis=1,
    )


def costs(table, t, e, t0, e0, d=0.0, d0=1.0):
    """c (N, M) (17-18), with a share of the price (ours); a share of 0 needs no number."""
    shares = table["shares"] if "shares" in table else table["weights"]
    raw = 0.0
    for name, x, scale in (("latency", t, t0), ("energy", e, e0), ("price", d, d0)):
        if shares.get(name, 0) > 0:
            raw = raw + shares[name] * x / scale
    names = [m["name"] for m in table["models"]]
    return raw / raw[:, [names.index(table["reference_model"])]]


def choose(p, c, lam, candidates):
    """Index of the full-information choice by both tie rules (26-29)."""
    u = {m: float(p[m]) - lam * float(c[m]) for m in candidates}
    best = max(u.values())
    tied = [m for m in candidates if u[m] == best]
    return 0 if 0 in tied else min(tied, key=lambda m: (c[m], m))


def margin(p, c, lam):
    """Delta = u_0 - max over edge models of u_m (46)."""
    u = [float(a) - lam * float(b) for a, b in zip(p, c, strict=True)]
    return u[0] - max(u[1:])


def floor_product(alpha, n):
    """floor(alpha (n + 1)) for alpha as it is written; m where alpha + 1 ulp reaches m / (n + 1)."""
    exact = int(Fraction(repr(float(alpha))) * (n + 1))
    reached = Fraction(math.nextafter(alpha, 2)) >= Fraction(exact + 1, n + 1)
    return exact + int(reached)


def crc_threshold(scores, prefers_edge, alpha):
    """The infimum of thresholds with (d + 1)/(N + 1) <= alpha, by trying every one (62-68).

    An infimum that is not attained is represented by the next float up.
    """
    n = len(scores)
    budget = floor_product(alpha, n)
    positives = scores[prefers_edge]

    def fits(tau):
        return int((positives >= tau).sum()) + 1 <= budget

    if budget < 1:
        return np.float32(np.inf)
    if fits(-np.inf):
        return np.float32(-np.inf)
    candidates = np.nextafter(np.unique(positives), np.float32(np.inf), dtype=np.float32)
    return min(c for c in candidates if fits(c))


def crc_thresholds_by_sorting(scores, prefers_edge, alphas):
    """The same for (L, N), by sorting: the baseline that a NumPy user would write."""
    n = scores.shape[1]
    out = np.full((len(scores), len(alphas)), np.inf, np.float32)
    for i, (s, r) in enumerate(zip(scores, prefers_edge, strict=True)):
        top = np.sort(s[r])[::-1]
        for j, alpha in enumerate(alphas):
            k = floor_product(alpha, n) - 1
            if k >= 0:
                out[i, j] = np.nextafter(top[k], np.float32(np.inf)) if k < len(top) else -np.inf
    return out


def empirical_risk(scores, prefers_edge, thresholds):
    return np.array(
        [
            [(r & (s >= t)).mean() for t in ts]
            for s, r, ts in zip(scores, prefers_edge, thresholds, strict=True)
        ]
    )


def two_passes(margins, prefers_edge, alphas):
    """Thresholds (L, A) by counts of ordered keys: their high halves, then the low ones of one cell."""
    out = np.empty((len(margins), len(alphas)), np.float32)
    for l, (row, r) in enumerate(zip(margins, prefers_edge, strict=True)):  # noqa: E741
        bits = (row[r] + np.float32(0)).view(np.uint32)
        keys = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
        for a, alpha in enumerate(alphas):
            k = floor_product(alpha, len(row)) - 1
            if k < 0 or k >= len(keys):
                out[l, a] = np.inf if k < 0 else -np.inf
                continue
            above = np.bincount(keys >> 16, minlength=1 << 16)[::-1].cumsum()
            high = int(np.searchsorted(above, k, "right"))
            rank = k - (above[high - 1] if high else 0)
            high = (1 << 16) - 1 - high
            low = np.bincount(keys[keys >> 16 == high] & 0xFFFF, minlength=1 << 16)[::-1].cumsum()
            key = np.uint32(high << 16 | (1 << 16) - 1 - int(np.searchsorted(low, rank, "right")))
            bits = key & 0x7FFFFFFF if key >> 31 else ~key
            out[l, a] = np.nextafter(np.array(bits, np.uint32).view(np.float32), np.float32(np.inf))
    return out


BETS = 2.0 ** np.arange(-6, 5)


def log_wealth(alpha, losses, weights=None):
    """ln of the wealth (T,) after each loss: the mean over bets b of prod (1 + b (x - alpha))."""
    x = np.asarray(losses, float) * (1 if weights is None else np.asarray(weights, float))
    bets = BETS[alpha * BETS <= 0.5]
    logs = np.log1p(bets[:, None] * (x - alpha)).cumsum(axis=1)
    return np.logaddexp.reduce(logs, axis=0) - np.log(len(bets))


def rolling(alpha, start, margins, prefers_edge, *, low, high, step, decay=0.6, decided_by=None):
    """Thresholds (T + 1,) and losses (T,) of the rolling rule, one label at a time."""
    tau, out, losses = (
        min(max(start, low), np.nextafter(np.float32(high), np.float32(np.inf))),
        [],
        [],
    )
    for t, (s, r) in enumerate(zip(margins, prefers_edge, strict=True), start=1):
        out.append(tau)
        by = tau if decided_by is None else decided_by[t - 1]
        losses.append(float(r and s >= by))
        tau = max(low, tau + step * t**-decay * (losses[-1] - alpha))
    return np.array([*out, tau]), np.array(losses)


def ridge_lengths(x, n_in, n_out, ridge):
    """Ridge coefficients of log(1 + L_out) on (x, log(1 + L_in)), centred: (d + 1, M)."""
    x = x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    f = np.hstack([x, np.log1p(n_in)[:, None]])
    f = f - f.mean(0)
    t = np.log1p(n_out)
    return np.linalg.solve(f.T @ f + ridge * np.eye(f.shape[1]), f.T @ (t - t.mean(0)))


def minor_components(x, m, floor):
    """A (m, d), b (m,): eigenvectors of least variance, by singular values of the centred rows."""
    x = np.asarray(x, float)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    mean = x.mean(axis=0)
    _, singular, rows = np.linalg.svd(x - mean, full_matrices=True)
    variances = np.zeros(x.shape[1])
    variances[: len(singular)] = singular**2 / len(x)
    order = np.argsort(variances)[:m]
    a = rows[order] / np.sqrt(variances[order] + floor * variances.mean())[:, None]
    return a, a @ mean


def typicality_scores(w, x):
    """s(x) = |A x/|x| - b|^2, (N,)."""
    x = np.asarray(x, float)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    unit = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    a, b = w["typicality.directions"].astype(float), w["typicality.offsets"].astype(float)
    return ((unit @ a.T - b) ** 2).sum(axis=1)


def p_value(score, calibration):
    """(1 + #{calibration scores >= s}) / (N + 1)."""
    return (1 + sum(c >= score for c in calibration)) / (len(calibration) + 1)


def read_tensors(data):
    """Tensors of a safetensors file, by its specification; bfloat16 as the float32 it is half of."""
    import json

    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    kinds = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "U64": np.uint64}
    kinds |= {"BF16": np.uint16, "I8": np.int8, "U8": np.uint8}
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            raw = data[8 + size + a : 8 + size + b]
            x = np.frombuffer(raw, kinds[t["dtype"]]).reshape(t["shape"])
            if t["dtype"] == "BF16":
                x = (x.astype(np.uint32) << 16).view(np.float32)
            out[name] = x
    return out


def smoother(x, centres, coefficients, mean, scale):
    """f (N, M) of the teacher's kernel smoother, rows x (N, d), float64."""
    z = layer_norm(x, 1.0, 0.0) / np.sqrt(x.shape[1])
    gaps = np.linalg.norm(z[:, None] - np.asarray(centres, float)[None], axis=2)
    return np.clip(mean + np.exp(-scale * gaps) @ np.asarray(coefficients, float).T, 0.01, 0.99)
