"""Readings of a real GPU's energy counter, recorded and played again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cr2fast_profiler.meters.replay import read_trace

H100 = Path(__file__).parents[3] / "examples" / "gpu" / "h100"


@pytest.mark.parametrize(("size", "idle_w"), [("0.6B", 120.6), ("4B", 123.4), ("14B", 125.2)])
def test_the_recorded_counter_reads_back_with_its_tick_and_idle_power(size, idle_w):
    trace = read_trace(H100 / f"h100-{size}.csv")
    (domain,) = trace.domains
    assert (domain.kind, domain.source, domain.estimated) == ("gpu", "nvml-counter", False)
    t, joules = trace.t_ns * 1e-9, trace.joules[:, 0]
    assert len(t) > 1000
    assert (np.diff(t) > 0).all()
    assert (np.diff(joules) >= 0).all()
    steps = np.diff(t[np.flatnonzero(np.diff(joules) > 0)])
    assert np.median(steps) == pytest.approx(0.1, rel=0.05), "the counter ticks every 100 ms"
    powers = [
        (joules[b] - joules[a]) / (t[b] - t[a])
        for a, b in ((i, i + 30) for i in range(0, len(t) - 30, 30))
    ]
    # Windows start and end off the ticks: a tick of 100 ms in about two seconds, at either end.
    assert min(powers) == pytest.approx(idle_w, rel=0.08)
    assert 150 < max(powers) < 700, "between what it idles at and what the board allows"
