"""What ``cr2fast-profile log`` does."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cr2fast_profiler.calllog import LogModel, profile_log, read_log
from cr2fast_profiler.errors import LogError
from cr2fast_profiler.files import write_atomically
from cr2fast_profiler.profile import write_profile
from cr2fast_profiler.report.summary import markdown

SHOWN = {"tau0_s": "tau0", "beta_pre_s": "β_pre", "beta_dec_s": "β_dec"}


def log(args: argparse.Namespace) -> dict[str, Any]:
    """Coefficients from a log of calls."""
    found = profile_log(read_log(args.file, dict(args.columns)), Path(args.file).name)
    if not found:
        raise LogError(f"{args.file} holds no calls")
    for m in found:
        _say(m, args.out)
    notes = dict.fromkeys(n for m in found if m.profile for n in m.profile.notes)
    if not any(m.profile for m in found):
        raise LogError("; ".join(f"{m.name}: {m.reason}" for m in found)[:500])
    print("What such a log cannot tell, and what else to know:")
    for note in notes:
        print(f"  - {note}")
    return {
        m.name: {
            "latency": asdict(m.profile.latency) if m.profile else None,
            "reason": m.reason,
            "prices": m.prices,
        }
        for m in found
    }


def _say(m: LogModel, out: str | None) -> None:
    if m.profile is None:
        print(f"{m.name}: not fitted: {m.reason}")
        return
    f = m.profile.latency
    lost = sum(m.profile.rejected.values())
    print(
        f"{m.name}: {f.n_requests} calls, {lost} more not usable; {f.served.outliers:.1%} "
        f"outliers; as served, {f.served.ratio:.2f} times as long on the mean"
    )
    for key, name in SHOWN.items():
        low, high = (1e3 * x for x in f.intervals[key])
        print(
            f"  {name:6} {1e3 * getattr(f, key):9.4g} ms  95 %: {low:.4g} to {high:.4g}; as served "
            f"{1e3 * f.served.values[key]:.4g}"
        )
    if m.prices:
        pair = ",".join(f"{1e6 * v:.4g}" for v in m.prices.values())
        print(f"  its dollars are those of --price {m.name}={pair}")
    if out:
        folder = Path(out) / (re.sub(r"[^A-Za-z0-9._-]+", "_", m.name).lstrip(".") or "model")
        write_profile(folder, m.profile)
        write_atomically(folder / "summary.md", markdown(m.profile).encode())
        print(f"  {folder}: profile.json and summary.md, for `table --cloud {folder}`")
