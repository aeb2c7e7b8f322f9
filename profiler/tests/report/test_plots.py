"""Plots: nothing lies over the data, and the titles say what decides whether to trust the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fakes.virtual import Heater, World
from runs import GRID, run

from cr2fast_profiler.analysis import profile_of
from cr2fast_profiler.report import plots


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    kept = []
    save = plots._save

    def keep(figure, plt, path):
        figure.draw_without_rendering()
        kept.append(figure)
        return save(figure, plt, path)

    monkeypatch.setattr(plots, "_save", keep)
    return kept


@pytest.mark.parametrize(
    ("manners", "words"),
    [
        ({}, "a cell left out is"),
        ({"proxy_bytes": 1 << 30}, "fitted to total time"),
        ({"slowdown_a_request": 0.004}, r"drift \+"),
        ({"burst": 3.0, "burst_share": 0.1}, "% outliers"),
    ],
)
@pytest.mark.parametrize("metered", [False, True])
def test_a_runs_plot(tmp_path: Path, drawn, manners, words, metered) -> None:
    world = World(beta_pre_s=1e-3, beta_dec_s=1e-2, noise=0.01, **manners)
    meter = Heater(world) if metered else None
    run(world, tmp_path, grid=GRID, meter=meter, most_rounds=4, idle_s=2.0)
    out = plots.plot_run(profile_of(tmp_path), tmp_path, tmp_path / "plot.png")
    assert out.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    assert re.search(words, figure.get_suptitle())
    assert "at worst" in figure.get_suptitle()
    for axis in figure.axes:
        legend = axis.get_legend()
        if legend is not None:
            data = axis.get_window_extent()
            assert not legend.get_window_extent().overlaps(data)
