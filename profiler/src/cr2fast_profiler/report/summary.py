"""A run's profile in Markdown, for people."""

from __future__ import annotations

from cr2fast_profiler.fit.energy import EnergyFit
from cr2fast_profiler.fit.latency import LatencyFit
from cr2fast_profiler.profile import ModelProfile

_UNITS = {
    "tau0_s": ("tau0", 1e3, "ms"),
    "beta_pre_s": ("β_pre", 1e3, "ms/token"),
    "beta_dec_s": ("β_dec", 1e3, "ms/token"),
    "kappa_pre": ("κ_pre", 1.0, "1/token"),
    "kappa_dec": ("κ_dec", 1.0, "1/token"),
    "p_active_w": ("P_active", 1.0, "W"),
    "p_prefill_w": ("P_prefill", 1.0, "W"),
    "p_decode_w": ("P_decode", 1.0, "W"),
    "p_idle_w": ("P_idle, resident", 1.0, "W"),
    "p_idle_unloaded_w": ("P_idle, unloaded", 1.0, "W"),
}


def _row(
    key: str,
    value: float | None,
    interval: tuple[float, float] | None,
    served: float | None = None,
) -> str:
    name, scale, unit = _UNITS[key]
    if value is None:
        return f"| {name} | not measured | | | {unit} |"
    between = ""
    if interval:
        between = f"{interval[0] * scale:.4g} to {interval[1] * scale:.4g}"
    mean = "" if served is None else f"{served * scale:.4g}"
    return f"| {name} | {value * scale:.4g} | {between} | {mean} | {unit} |"


def _power(energy: EnergyFit | None, key: str) -> float | None:
    """A power as the summary shows it; datasheet watts have no idle."""
    if energy is None or (energy.estimated and key == "p_idle_w"):
        return None
    value: float | None = getattr(energy, key)
    return value


def _powers_are(energy: EnergyFit | None) -> str:
    if energy is None:
        return ""
    if energy.estimated:
        return " Powers are datasheet watts: estimated, not measured."
    return " P_active, P_prefill and P_decode are above resident idle."


def _percent(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1%}"


def _pair(pair: tuple[float, float] | None) -> str:
    return "-" if pair is None else f"{pair[0] * 1e3:.4g}, {pair[1] * 1e3:.4g}"


def _facts(profile: ModelProfile) -> list[str]:
    f, e, lengths = profile.latency, profile.energy, profile.lengths
    compared = ", ".join(f"{k} {v:.2%}" for k, v in f.form_errors.items())
    facts = [
        _estimated_by(f),
        f"Measured for L_in from {lengths.l_in[0]} to {lengths.l_in[1]} and L_out from "
        f"{lengths.l_out[0]} to {lengths.l_out[1]} tokens; beyond them the formula extrapolates.",
        f"A cell left out is predicted within {_percent(f.loco_error)} on average, "
        f"{_percent(f.loco_worst)} at worst.",
        f"Noise of one request within its cell: {f.noise:.1%}, with outliers {f.spread:.1%}; lack "
        f"of fit beyond it: {f.lack_of_fit:.1%}.",
        f"Outliers: {f.served.outliers:.1%} of the requests ({f.served.slow:.1%} slow). As served, "
        f"a request takes {f.served.ratio:.3f} times as long as one alone, on the mean.",
        f"Left-out error by form (prefill/decode): {compared or 'not known'}.",
    ]
    if profile.drift:
        d = profile.drift
        facts.append(
            f"Drift of the reference cell over the run: {d.fraction:+.1%} ± "
            f"{1.96 * d.standard_error:.1%}{' (flagged)' if d.flagged else ''}."
        )
    if profile.server_ratio:
        pre, dec = profile.server_ratio
        facts.append(
            f"Our times over the server's own: prefill {pre:.3f}, decode {dec:.3f} (medians)."
        )
    if e:
        facts.append(
            f"Energy from {', '.join(e.sources)}: tick {e.tick_s * 1e3:.3g} ms, {e.n_blocks} "
            f"blocks, {e.n_invalid} invalid; trusted readings cover {e.coverage:.0%} of the time "
            "in which requests were served."
        )
    else:
        facts.append(f"Energy: not measured ({profile.no_energy}).")
    lost = ", ".join(f"{n} x {why}" for why, n in sorted(profile.rejected.items())) or "none"
    facts.append(f"Rejected requests: {lost}.")
    return facts


def _estimated_by(f: LatencyFit) -> str:
    if f.estimated_by == "phases":
        return (
            "Coefficients from TTFT and decode time, which agree with the total time: text comes "
            "as its tokens are made."
        )
    return "Coefficients from the total time, however the text was streamed."


def markdown(profile: ModelProfile) -> str:
    """The summary.

    Parameters
    ----------
    profile : ModelProfile
        Of a run.
    """
    f, e = profile.latency, profile.energy
    host = profile.sessions[0]["host"]
    lines = [
        f"# {profile.name}",
        "",
        f"{f.n_requests} requests, {len(profile.sessions)} session(s), first on "
        f"{profile.sessions[0]['started']}; profiler on {host.get('node')} "
        f"({host.get('cpu') or host.get('machine')}).",
        "",
    ]
    lines += [f"> **Note.** {note}.\n" for note in profile.notes]
    lines += [
        "| | one request alone | 95 % interval | as served | unit |",
        "| --- | --- | --- | --- | --- |",
    ]
    bent = {"kappa_pre": f.phi_pre, "kappa_dec": f.phi_dec}
    shown = ["tau0_s", "beta_pre_s", "beta_dec_s"]
    shown += [k for k, form in bent.items() if form == "quadratic"]
    lines += [_row(k, getattr(f, k), f.intervals[k], f.served.values[k]) for k in shown]
    before = profile.unloaded_idle
    lines += [
        _row(k, _power(e, k), e.intervals.get(k) if e else None)
        for k in ("p_active_w", "p_prefill_w", "p_decode_w", "p_idle_w")
    ]
    if before:
        row = _row("p_idle_unloaded_w", before["p_idle_w"], tuple(before["interval"]))
        lines.append(row + (" estimated" if before["estimated"] else ""))
    lines += [
        "",
        f"τ_inf = tau0 + β_pre·Φ(L_in) + β_dec·Φ(L_out); Φ_pre {f.phi_pre}, Φ_dec {f.phi_dec}."
        + _powers_are(e),
        "",
        *(f"- {fact}" for fact in _facts(profile)),
    ]
    if profile.loads:
        lines += [
            "",
            "| load | requests | rejected | TTFT median, p95 (ms) | ITL median, p95 (ms) |",
            "| --- | --- | --- | --- | --- |",
        ]
        for x in profile.loads:
            lines.append(
                f"| {x.load} | {x.n} | {x.n_rejected} | {_pair(x.ttft_s)} | {_pair(x.itl_s)} |"
            )
    return "\n".join(lines) + "\n"
